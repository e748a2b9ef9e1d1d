"""What a run trains: the loss, the evaluation and the files of one kind of model. `trainer` does the rest of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning_fabric
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thfuse_sam.options.training import RunSettings
from thfuse_sam.training.batches import Batch, EpochDataset
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSettings, load_weights, save_checkpoint

# (name, uint8 HxWx3 RGB): shows a picture beside the log
ShowPicture = Callable[[str, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Evaluation:
    """How good the model is after an epoch."""

    score: float  # the lower the better
    values: Mapping[str, float] = field(default_factory=dict)  # for the log
    summary: str = ""  # for the epoch's line on the screen
    details: str = ""  # for a line of its own; "": none


class TrainingTask(ABC):
    """One kind of training. `trainer.Trainer` asks it for all that depends on what is trained.

    Args:
        module: what is trained, and set up by Fabric.
        spec: what a checkpoint has to be of, for a run to go on from it.
        train_set: makes the samples.
        val_set: what `evaluate` evaluates on; None: the training loss is the score.
        settings: of the run.
    """

    samples = "samples"  # what a training sample is called, in the plural; their number is recorded under this name
    best_file = "best.pth"  # of the best weights so far
    latest_file: str | None = None  # of the latest weights alone, beside the checkpoint; None: not written
    options_file = "train_options.json"
    collate: Callable[[list[Any]], Batch] | None = None  # samples -> batch; None stacks their tensors
    # Names of recorded options that must match when a run is resumed, besides those in `resuming.MUST_MATCH`.
    must_match: tuple[str, ...] = ()
    # Names of recorded options that may differ silently then, besides those in `resuming.MAY_DIFFER`.
    may_differ: frozenset[str] = frozenset()

    def __init__(
        self, module: nn.Module, spec: NetworkSettings, train_set: EpochDataset, val_set: Any, settings: RunSettings
    ) -> None:
        self.module, self.spec, self.settings = module, spec, settings
        self.train_set, self.val_set = train_set, val_set

    def to(self, device: torch.device) -> None:
        """Move everything that computes to `device`."""
        self.module.to(device)

    def compiled(self) -> nn.Module:
        """`module` with what is worth it compiled; it shares its weights."""
        return cast(nn.Module, torch.compile(self.module))

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of all weights that are trained."""
        trained = [value for value in self.module.parameters() if value.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Loss parts of a batch as 0-d tensors; "total" is minimised. `network` is `module` as Fabric has set it up."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Figures to sum up over an epoch and to log, such as masks found."""
        return {}

    def start(self, fabric: lightning_fabric.Fabric) -> None:  # noqa: B027 (a task may do without)
        """Called in each process before the first step of a run, also of one that goes on."""

    def evaluate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> Evaluation:
        """How good `module` is on `val_set`, in eval mode and without gradients; the same in each process.

        `show` is None where no pictures are wanted.
        """
        raise NotImplementedError

    def finish(self, fabric: lightning_fabric.Fabric, output_dir: Path) -> None:  # noqa: B027 (likewise)
        """Called in each process at the end of a run that was not interrupted, when all files are written."""

    def weights(self) -> dict[str, Tensor]:
        """What is trained, by name: what is averaged, and kept in checkpoints."""
        return self.module.state_dict()

    def load_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Take over the `weights` in a checkpoint. Raises CheckpointError, naming `path`, where they do not fit."""
        load_weights(self.module, weights, path)

    def state(self) -> dict[str, Any]:
        """What a run needs to go on besides weights and options, as plain values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (likewise)
        """Take over the `state` in a checkpoint."""

    def kept_file(self, epoch: int) -> str:
        """Name of the file of the weights that are kept after `epoch` epochs."""
        return f"model_epoch{epoch}.pth"

    def save(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write the weights in `checkpoint`, for use. Raises OutputError."""
        save_checkpoint(path, checkpoint)

    def describe_other(self, spec: NetworkSettings) -> str:
        """Why a run does not go on from a checkpoint of `spec`, and what to do."""
        return (
            f"holds {spec.name} {spec.options}, `network` is {self.spec.name} {self.spec.options}; "
            "give the same network or start without `resume`"
        )
