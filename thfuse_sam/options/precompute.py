"""Options of `precompute_masks.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from thfuse_sam.options.fields import AUTO, Options, option, redefault
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

SAMPLES = (TEST_SAMPLE, TRAIN_SAMPLE)  # the data sets that test.py and train.py use by default


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
    """How the work is spread over processes and machines."""

    n_jobs: int | Literal["auto"] = option(
        AUTO,
        "processes on `device`; on a CPU they share its cores; auto: one per core where images and memory suffice, one "
        "on a GPU; with `engine` ray: one per GPU, without a GPU one per core",
        low=1,
        metavar="N",
    )
    devices: tuple[str, ...] | None = option(
        None, "devices that get one process each", separator=",", metavar="cuda:0,cuda:1"
    )
    shard: Part | None = option(None, "make only part I of N equal parts of the images, I from 1 to N", metavar="I/N")
    engine: Literal["local", "ray"] = option("local", "local: processes of this machine; ray: a Ray cluster")
    ray_address: str | None = option(
        None, "address of the Ray cluster; auto: one that runs already", default_text="start Ray on this machine"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options, group="output"):
    """What is written where, and how."""

    output_dir: Path = option(DEFAULT_MASKS_DIR, "folder of the masks (the mask tree)", aliases=("-o",))
    overwrite: bool = option(False, "make all masks again, also those that exist")
    save_instances: bool = option(False, "also write each image's overlapping masks as COCO RLE in JSON")
    save_embeddings: bool = option(False, "also write the image embeddings, for a later run with `embeddings`")
    embeddings: Path | None = option(
        None, "read the image embeddings from DIR and do not run the image encoder", metavar="DIR"
    )
    store: Literal["npy", "shards"] | None = option(
        None, "npy: a file for each mask; shards: tar files", default_text="as the tree has it, npy in a new tree"
    )
    shard_size: int = option(256, "masks in each tar file of `store` shards", low=1)
    preview: int = option(0, "draw a contact sheet of N masks; 0: none", low=0, metavar="N")
    preview_dir: Path | None = option(None, "folder of the contact sheet", default_text="OUTPUT_DIR/preview")
    report: bool = option(False, f"write OUTPUT_DIR/{REPORT}, a page about the masks")
    num_workers: int = option(2, "threads that read and write files", low=0)
    verify: bool = option(
        False, "check the masks against the given images, else against those they were made from, and stop; runs no SAM"
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
    compile: Literal["auto", "on", "off"] = option(
        "auto", "compile SAM on a GPU: a slow start, then faster; auto: from 300 images for each GPU on"
    )
