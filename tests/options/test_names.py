"""Options know names that the registries of heavier rooms know too: they are the same."""

from thfuse_sam.datasets.segmentation.known_sets import KNOWN_SETS
from thfuse_sam.masks.shards import SHARD_SIZE
from thfuse_sam.options import generator, groups, precompute, prepare
from thfuse_sam.report.page import INDEX, REPORT_FOLDER
from thfuse_sam.sam.registry import MODEL_TYPES


def test_names_are_those_of_the_registries() -> None:
    assert tuple(generator.GENERATOR_DEFAULTS) == tuple(MODEL_TYPES)
    assert tuple(KNOWN_SETS) == prepare.KNOWN_SETS
    assert f"{REPORT_FOLDER}/{INDEX}" == groups.REPORT
    assert precompute.PrecomputeOptions().shard_size == SHARD_SIZE
