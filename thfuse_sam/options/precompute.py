"""Options of `precompute_masks.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.generator import GeneratorOptions
from thfuse_sam.options.shared import (
    DEFAULT_MASKS_DIR,
    REPORT,
    TEST_SAMPLE,
    TRAIN_SAMPLE,
    DeviceOptions,
    PairOptions,
    SamOptions,
)

SAMPLES = (TEST_SAMPLE, TRAIN_SAMPLE)  # what test.py and train.py take by default


@dataclass(frozen=True)
class Part:
    """One of several equal parts of the images."""

    number: int  # from 1
    total: int
    WANTED: ClassVar = "I/N with I from 1 to N, such as 2/8"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that a text such as "2/8" means. Raises ValueError."""
        number, total = (int(word) for word in text.split("/"))
        if not 1 <= number <= total:
            raise ValueError(text)
        return cls(number, total)


@dataclass(frozen=True, kw_only=True)
class SpreadOptions(Options, group="several processes, several machines: see docs/precompute.md"):
    """How the work is spread."""

    n_jobs: int | None = option(
        None,
        "processes on `device`; on the CPU they divide the cores",
        default_text="1; with `engine` ray one a GPU, else one a core",
        low=1,
        metavar="N",
    )
    devices: tuple[str, ...] | None = option(
        None, "one process on each of these", separator=",", metavar="cuda:0,cuda:1"
    )
    shard: Part | None = option(None, "only part I of N of the images, I from 1 to N", metavar="I/N")
    engine: Literal["local", "ray"] = option("local", "ray: a Ray cluster")
    ray_address: str | None = option(
        None, "of the cluster, auto: a running one", default_text="start Ray on this machine"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options, group="output"):
    """What is written where, and how."""

    output_dir: Path = option(DEFAULT_MASKS_DIR, "the mask tree")
    overwrite: bool = option(False, "make masks anew that are there already")
    save_instances: bool = option(False, "also write overlapping masks, COCO RLE in JSON")
    save_embeddings: bool = option(False, "also keep image embeddings, for `embeddings`")
    embeddings: Path | None = option(None, "use the embeddings kept in DIR, not the encoder", metavar="DIR")
    store: Literal["npy", "shards"] | None = option(
        None, "a file for each mask, or tar files", default_text="as the tree is, else npy"
    )
    shard_size: int = option(256, "masks in a tar file", low=1)
    preview: int = option(0, "contact sheet of N masks", low=0, metavar="N")
    preview_dir: Path | None = option(None, "for the contact sheet", default_text="OUTPUT_DIR/preview")
    report: bool = option(False, f"write OUTPUT_DIR/{REPORT}: what the masks are like")
    num_workers: int = option(2, "threads that read and write files", low=0)
    verify: bool = option(
        False, "check the tree against the given images, or against those it was made from, and stop; no SAM"
    )


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions(
    PairOptions, SamOptions, DeviceOptions, SpreadOptions, OutputOptions, GeneratorOptions, group=PairOptions.group
):
    """What masks are made of which images, and how."""

    dataset_path: Path | None = redefault(
        PairOptions, "dataset_path", None, default_text=" and ".join(str(sample) for sample in SAMPLES)
    )
    modality: Literal["ir", "vi", "both"] = option("both", "which images get masks")
