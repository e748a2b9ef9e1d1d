"""What a run trains: the loss, the evaluation and the files of one kind of model. `trainer` does the rest of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning_fabric
import torch
from torch import Tensor, nn

from thfuse_sam.arrays import ImageArray
from thfuse_sam.options.training import RunSettings
from thfuse_sam.training.batches import Batch, EpochDataset
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSpec, load_weights, save_checkpoint

# (name, uint8 HxWx3 RGB): shows a picture beside the log
ShowPicture = Callable[[str, ImageArray], None]


@dataclass(frozen=True)
class Evaluation:
    """How good the model is after an epoch."""

    score: float  # the lower the better
    values: Mapping[str, float] = field(default_factory=dict)  # for the log
    summary: str = ""  # for the epoch's line on the screen


class TrainingTask(ABC):
    """One kind of training. `trainer.Trainer` asks it for all that depends on what is trained.

    Args:
        module: the model that is trained; Fabric sets it up.
        spec: describes the trained network; a run can be resumed only from a checkpoint with an equal description.
        train_set: the training samples.
        val_set: data for `evaluate`, which is called only if there is some; None: the training loss is the score.
        settings: how the run trains.
    """

    sample_noun = "samples"  # what training samples are called, in the plural; their number is recorded under this name
    best_file = "best.pth"  # name of the file of the best weights so far
    latest_file: str | None = None  # file of the latest weights alone, beside the checkpoint; None: not written
    options_file = "train_options.json"
    collate: Callable[[list[Any]], Batch] | None = None  # samples -> batch; None stacks their tensors
    # Names of recorded options that must match when a run is resumed, besides those in `resuming.MUST_MATCH`.
    must_match: tuple[str, ...] = ()
    # Names of recorded options that may differ silently then, besides those in `resuming.MAY_DIFFER`.
    may_differ: frozenset[str] = frozenset()

    def __init__(
        self, module: nn.Module, spec: NetworkSpec, train_set: EpochDataset, val_set: Any, settings: RunSettings
    ) -> None:
        self.module, self.spec, self.settings = module, spec, settings
        self.train_set, self.val_set = train_set, val_set

    def to(self, device: torch.device) -> None:
        """Move everything that computes to `device`."""
        self.module.to(device)

    def compiled(self) -> nn.Module:
        """`module` with its costly parts compiled; both share their weights."""
        return cast(nn.Module, torch.compile(self.module))

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of all weights that are trained."""
        trained = [value for value in self.module.parameters() if value.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Loss parts of a batch as 0-d tensors; "total" is minimised. `network` is `module` as Fabric has set it up."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Figures to sum up over an epoch and to log, such as the number of masks."""
        return {}

    def start(self, fabric: lightning_fabric.Fabric) -> None:  # noqa: B027 (optional for a task)
        """Called in each process before the first step of a run, also of a resumed one."""

    def evaluate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> Evaluation:
        """How good `module` is on `val_set`; the result is the same in each process. It is called in eval mode, without
        gradients, and only if there is a `val_set`.

        `show` is None if no pictures are wanted.
        """
        raise NotImplementedError

    def finish(self, fabric: lightning_fabric.Fabric, output_dir: Path) -> None:  # noqa: B027 (optional for a task)
        """Called in each process at the end of a run that was not interrupted, when all files are written."""

    def weights(self) -> dict[str, Tensor]:
        """The trained weights by name: those that are averaged and kept in checkpoints."""
        return self.module.state_dict()

    def load_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Take over the `weights` in a checkpoint. Raises CheckpointError, naming `path`, where they do not fit."""
        load_weights(self.module, weights, path)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides weights and options, as plain values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (optional for a task)
        """Take over the `state` in a checkpoint."""

    def kept_file(self, epoch: int) -> str:
        """Name of the file of the weights that are kept after `epoch` epochs."""
        return f"model_epoch{epoch}.pth"

    def save(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write the weights in `checkpoint` to a file for inference. Raises OutputError."""
        save_checkpoint(path, checkpoint)

    def describe_other(self, spec: NetworkSpec) -> str:
        """Why this run cannot be resumed from a checkpoint whose network is `spec`, and what to do."""
        return (
            f"was trained with the network {spec.name} {spec.options}, "
            f"but `network` is {self.spec.name} {self.spec.options}; "
            "give the same network or start without `resume`"
        )
