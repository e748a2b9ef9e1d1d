"""What every training run can be told, whichever network it trains. Without torch, so that options load fast."""

import dataclasses
from typing import Literal, get_args

from thfuse_sam.precision import Precision

Schedule = Literal["cosine", "polynomial", "plateau", "constant"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How a run trains. The network, the loss and the data come as objects; a task's settings add fields of its own.

    The learning rate's schedule spans `epochs`, or `max_steps` where `epochs` is None. With both, `max_steps` only
    stops the run before its schedule ends, as Ctrl-C would: resumed, it computes what an uninterrupted run computes.
    """

    epochs: int | None = None  # passes over the training samples; None: as many as `max_steps` takes
    batch_size: int = 1  # samples that go through the network together, in each process
    accumulate: int = 1  # batches of each process whose gradients make one optimiser step
    lr: float = 1e-3  # learning rate at its peak, after the warm-up
    schedule: Schedule = "cosine"  # how the learning rate falls after the warm-up; "plateau": when no score is better
    warmup_steps: int = 20  # optimiser steps over which the learning rate rises
    plateau_factor: float = 0.5  # on the learning rate, each time that "plateau" lowers it
    plateau_patience: int = 5  # evaluations without a better score that "plateau" lets pass
    early_stopping: int | None = None  # evaluations without a better score before training ends; None: never
    weight_decay: float = 1e-4  # of AdamW
    grad_clip: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.0  # of averaged weights, which then are evaluated and kept, in [0, 1); 0: no average
    precision: Precision = "fp32"  # "bf16", "fp16": mixed precision; fp16 on GPUs alone
    compile: bool = False  # torch.compile; takes a minute or more before the first step
    seed: int = 0  # of the samples' order and of what is drawn in making them
    num_workers: int = 0  # processes that make samples; 0: the training process makes them
    save_interval: int = 10  # epochs between the weights that are kept
    val_interval: int = 1  # epochs between evaluations; after the last epoch there always is one
    max_steps: int | None = None  # stop after this many optimiser steps in all; None: no limit


@dataclasses.dataclass(frozen=True)
class FusionSettings(RunSettings):
    """How a fusion network is trained; a sample is a crop of a pair of images."""

    epochs: int | None = 100
    batch_size: int = 8
    val_metrics: tuple[str, ...] = ()  # keys of metrics.METRICS, measured on the validation crops


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(RunSettings):
    """How a Segment Anything model is fine-tuned; a sample is an image with some of its objects."""

    epochs: int | None = 10
    lr: float = 1e-4
    plateau_factor: float = 0.1
    plateau_patience: int = 3
    weight_decay: float = 1e-2
    n_objects: int = 16  # most objects of an image in one step
    sub_iterations: int = 1  # passes of the decoder for an object; further ones correct the first
    flip: float = 0.0  # probability of a mirror image in training, in [0, 1]; mirrored sets have no kept embeddings
