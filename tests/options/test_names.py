"""Options know names that the registries of heavier rooms know too: they are the same."""

from thfuse_sam.datasets import words
from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation.known_sets import KNOWN_SETS
from thfuse_sam.false_colour import COLORMAPS
from thfuse_sam.losses import LOSS_PARTS, SEGMENTATION_PARTS
from thfuse_sam.masks.shards import SHARD_SIZE
from thfuse_sam.metrics import METRICS
from thfuse_sam.models import DEFAULT_NETWORK, NETWORKS
from thfuse_sam.options import finetune, generator, precompute, prepare, shared, train
from thfuse_sam.report.page import INDEX, REPORT_FOLDER
from thfuse_sam.sam.adapt import PARTS
from thfuse_sam.sam.registry import MODEL_TYPES


def test_names_are_those_of_the_registries() -> None:
    assert tuple(generator.GENERATOR_DEFAULTS) == (*MODEL_TYPES, generator.HUGGING_FACE)
    assert tuple(KNOWN_SETS) == prepare.KNOWN_SETS
    assert f"{REPORT_FOLDER}/{INDEX}" == shared.REPORT == f"{words.REPORT}/{words.REPORT_PAGE}"
    assert shared.COLORMAPS == COLORMAPS
    assert precompute.PrecomputeOptions().shard_size == SHARD_SIZE


def test_names_of_training_are_those_of_networks_losses_metrics_and_prompts() -> None:
    assert tuple(NETWORKS) == train.NETWORKS and train.TrainOptions().network == DEFAULT_NETWORK
    assert tuple(LOSS_PARTS) == tuple(train.LOSS_WEIGHTS)
    assert tuple(METRICS) == train.METRICS
    assert tuple(SEGMENTATION_PARTS) == tuple(finetune.LOSS_WEIGHTS)
    assert tuple(PromptMix(box=1).weights()) == finetune.PROMPT_KINDS
    assert {f"freeze_{part}" for part in PARTS} <= set(finetune.FinetuneOptions.__dataclass_fields__)
