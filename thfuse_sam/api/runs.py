"""The long runs in Python: what `thfuse masks`, `thfuse train` and `thfuse finetune` do, with their options."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from thfuse_sam.api.inputs import as_path, described, given_options, listening
from thfuse_sam.api.segmenting import Sam, require_no_settings
from thfuse_sam.api.trees import MaskTree
from thfuse_sam.commands.finetune import Tuning
from thfuse_sam.commands.finetune import finetune as run_finetuning
from thfuse_sam.commands.precompute import precompute_masks
from thfuse_sam.commands.train import train as run_training
from thfuse_sam.errors import UsageError, renaming
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.finetune import FinetuneOptions
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.precompute.writing import RunSummary
from thfuse_sam.progress import Progress
from thfuse_sam.training.trainer import RunResult

PathInput: TypeAlias = str | os.PathLike[str]
_PAIRS = {"dataset_path": "pairs", "ir_dir": "pairs", "vi_dir": "pairs"}  # options -> the argument that stands for them


def precompute(
    pairs: PathInput | tuple[PathInput, PathInput],
    tree: PathInput | MaskTree = "precomputed_masks",
    sam: str | Sam = AUTO,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> RunSummary:
    """Make the masks of many images that `tree` lacks, as `thfuse masks` does. Stopped, the same call goes on.

    Args:
        pairs: a folder of pairs, or the folders of infrared and of visible images.
        tree: the folder of the masks.
        sam: a model type, or a `Sam`, which makes all masks in this process. With `n_jobs` above 1 each process loads
            its own from the file of the `Sam`.
        progress: is called with the number of finished images and of all; by default a bar is shown.
        options: further options of `thfuse masks`, such as `n_jobs` or `save_instances`.

    Returns:
        how many masks were `written`, how many of them are `empty`, and `failures` with the reasons.

    Raises:
        ThFuseError: of any kind; masks that are already written stay valid.

    Example:
        >>> import tempfile
        >>> import thfuse_sam as th
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     th.precompute("datasets/sample/test", folder, "vit_nano", device="cpu", points_per_side=2).written
        16
    """
    _require_arguments({**_PAIRS, "output_dir": "tree", "sam_model_type": "sam"}, options)
    if "verify" in options:
        raise UsageError("`verify`: makes no masks; leave it out")
    generator = None
    if isinstance(sam, Sam):
        generator = sam.generator
        own = dataclasses.asdict(generator.settings)
        own |= {"sam_checkpoint": sam.checkpoint, "device": str(generator.sam.device)}
        require_no_settings(name for name in options if name in own)
        options = {"n_jobs": 1, **options, **own}
    options["sam_model_type"] = sam.model_type if isinstance(sam, Sam) else sam
    options["output_dir"] = tree.root if isinstance(tree, MaskTree) else tree
    with renaming(sam_model_type="sam", output_dir="tree", dataset_path="pairs"), listening(progress):
        [summary] = precompute_masks(
            given_options(PrecomputeOptions, {**_folders(pairs), **options}), generator=generator
        )
    return summary


def train(
    pairs: PathInput | tuple[PathInput, PathInput],
    masks: PathInput | MaskTree | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Train a fusion network, as `thfuse train` does.

    Args:
        pairs: a folder of pairs, or the folders of infrared and of visible images.
        masks: their mask tree; None: none.
        progress: is called with the number of finished steps and of all; by default a bar is shown.
        options: further options of `thfuse train`, such as `epochs`, `lr`, `output_dir` or `resume`.

    Returns:
        where the run has ended: `epoch`, `step`, and the files `best_file` and `latest`.

    Raises:
        ThFuseError: of any kind; checkpoints that are already written stay valid.

    Example:
        >>> import tempfile
        >>> import thfuse_sam as th
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     th.train("datasets/sample/train", output_dir=folder, device="cpu", max_steps=1, crop_size=32).step
        1
    """
    _require_arguments({**_PAIRS, "precomputed_masks_dir": "masks"}, options)
    tree = masks.root if isinstance(masks, MaskTree) else "none" if masks is None else as_path(masks, "masks")
    given = {name: (value,) if name == "dataset_path" else value for name, value in _folders(pairs).items()}
    makes_masks = {"`precompute()` `output_dir`": "`precompute()` `tree`"}
    with renaming(makes_masks, dataset_path="pairs", precomputed_masks_dir="masks"), listening(progress):
        return run_training(given_options(TrainOptions, {**given, "precomputed_masks_dir": (tree,), **options}))


def finetune(data_dir: PathInput, *, progress: Progress | None = None, **options: Any) -> Tuning:
    """Fine-tune a Segment Anything model on annotated images, as `thfuse finetune` does.

    Args:
        data_dir: a folder of annotated images, a COCO .json or a mixture .yaml; see docs/finetuning_data.md.
        progress: is called with the number of what is finished and of all, first of the images that are checked, then
            of the steps; by default a bar is shown.
        options: further options of `thfuse finetune`, such as `sam_model_type`, `epochs` or `export`.

    Returns:
        `run`, where it has ended, and the scores `zero_shot` and `fine_tuned`.

    Raises:
        ThFuseError: of any kind; checkpoints that are already written stay valid.

    Example:
        >>> import thfuse_sam as th
        >>> th.finetune("no/such/folder", sam_model_type="vit_nano")
        Traceback (most recent call last):
        thfuse_sam.errors.UsageError: ...
    """
    with listening(progress):
        return run_finetuning(given_options(FinetuneOptions, {"data_dir": as_path(data_dir, "data_dir"), **options}))


def _require_arguments(renamed: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that another argument stands for."""
    for name in options.keys() & renamed:
        raise UsageError(f"`{name}`: `{renamed[name]}` says it here; leave it out")


def _folders(pairs: PathInput | tuple[PathInput, PathInput]) -> dict[str, PathInput]:
    if isinstance(pairs, (str, os.PathLike)):
        return {"dataset_path": pairs}
    if (
        isinstance(pairs, (tuple, list))
        and len(pairs) == 2
        and all(isinstance(one, (str, os.PathLike)) for one in pairs)
    ):
        return {"ir_dir": pairs[0], "vi_dir": pairs[1]}
    raise UsageError(
        f"`pairs` {described(pairs)}: give a folder of pairs, or the folders of infrared and of visible images"
    )
