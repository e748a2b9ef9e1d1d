"""Options that every training has, whichever network it trains, and those that the tasks add."""

from dataclasses import dataclass
from typing import Literal

from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.shared import Precision

Schedule = Literal["cosine", "polynomial", "plateau", "constant"]
DEFAULT_WORKERS = "0 on a CPU; on a GPU the CPU cores less one, at most 8"  # what help says of `num_workers`


@dataclass(frozen=True, kw_only=True)
class RunSettings(Options, group="training"):
    """How a run trains. The network, the loss and the data come as objects; a task's settings add fields of its own.

    The learning rate's schedule spans `epochs`, or `max_steps` where `epochs` is None. With both, `max_steps` only
    stops the run before its schedule ends. A run that is resumed after that has the weights of an uninterrupted run;
    its best score so far may be of the additional evaluation where `max_steps` had cut an epoch short.
    """

    epochs: int | None = option(
        None,
        "passes over the training samples",
        low=1,
        aliases=("num_epochs", "epoch", "epoch_num", "-e"),
        default_text="as many as `max_steps` needs",
    )
    max_steps: int | None = option(
        None,
        "optimiser steps in all; training ends there, also inside an epoch",
        low=1,
        aliases=("n_iterations", "steps", "-i"),
        default_text="no limit",
    )
    batch_size: int = option(1, "samples that go through the network together, in each process", low=1, aliases=("-b",))
    accumulate: int = option(
        1, "batches whose gradients make one optimiser step", low=1, aliases=("virtual_batch_size",)
    )
    lr: float = option(1e-3, "learning rate at its peak, after the warm-up", above=0, aliases=("learning_rate",))
    schedule: Schedule = option(
        "cosine", "how the learning rate falls; plateau: each time the validation score stops improving"
    )
    warmup_steps: int = option(20, "optimiser steps at the start over which the learning rate rises", low=0)
    plateau_factor: float = option(
        0.5, "factor on the learning rate each time that the schedule plateau lowers it", above=0
    )
    plateau_patience: int = option(
        5,
        "evaluations without a better score before the schedule plateau lowers the learning rate",
        low=0,
        aliases=("patience",),
    )
    early_stopping: int | None = option(
        None, "evaluations without a better score before training ends", low=1, default_text="never"
    )
    weight_decay: float = option(1e-4, "weight decay of the optimiser, AdamW", low=0)
    grad_clip: float = option(1.0, "largest norm of the gradient; a larger gradient is scaled down to it", above=0)
    ema_decay: float = option(
        0.0,
        "decay of an average of the weights, such as 0.99, which is then evaluated and saved; 0: no average",
        low=0,
        below=1,
    )
    precision: Precision = option("fp32", "number format of training; bf16, fp16: mixed precision; fp16 needs a GPU")
    compile: bool = option(False, "compile the network with torch.compile: a slow start, then faster steps on a GPU")
    seed: int = option(
        0,
        "random seed of the validation split, of the order of the samples and of their augmentation",
        low=0,
        high=2**32 - 1,
    )
    num_workers: int | None = option(0, "processes that load samples; 0: the training process loads them itself", low=0)
    save_interval: int = option(10, "epochs between checkpoints that are kept", low=1)
    log_every: int | None = option(
        None,
        "epochs between tables of the losses and metrics; without it each epoch gets a line",
        low=1,
        default_text="no tables",
    )
    val_interval: int = option(
        1,
        "epochs between evaluations; the end of the run is always evaluated",
        low=1,
        aliases=("test_interval", "eval_interval"),
    )


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options, group="validation"):
    """Which samples are held out."""

    val_fraction: float = option(
        0.1, "share of the samples that is held out for validation", low=0, below=1, aliases=("val_ratio",)
    )


@dataclass(frozen=True, kw_only=True)
class FusionSettings(RunSettings, group="training"):
    """How a fusion network is trained; a sample is a crop of a pair of images."""

    epochs: int | None = redefault(RunSettings, "epochs", 100, default_text=None)
    batch_size: int = redefault(RunSettings, "batch_size", 8)
    val_metrics: tuple[str, ...] = option(
        (), "metrics that are measured on the validation crops at each evaluation", metavar="NAME"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(RunSettings, group="training"):
    """How a Segment Anything model is fine-tuned; a sample is an image with some of its objects."""

    epochs: int | None = redefault(RunSettings, "epochs", 10, default_text=None)
    lr: float = redefault(RunSettings, "lr", 1e-4)
    plateau_factor: float = redefault(RunSettings, "plateau_factor", 0.1)
    plateau_patience: int = redefault(RunSettings, "plateau_patience", 3)
    weight_decay: float = redefault(RunSettings, "weight_decay", 1e-2)
    n_objects: int = option(16, "most objects of each image in one step", low=1, aliases=("n_objects_per_batch", "-n"))
    sub_iterations: int = option(
        1,
        "passes for each object: first its prompt, then corrections by points where the mask is wrong",
        low=1,
        aliases=("n_sub_iteration", "-s"),
    )
    flip: float | None = option(
        None,
        "probability that a training image is mirrored; above 0, only embeddings of validation images are kept",
        low=0,
        high=1,
        metavar="P",
        default_text="0.5; 0 with `debug_with_one_example` and where embeddings of a frozen image encoder are kept",
    )
