"""The log of a training run: one row an epoch in `train_log.csv`, and TensorBoard's files where it is installed."""

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import OutputError
from thfuse_sam.files import write_csv

LOG_NAME = "train_log.csv"
_BOARD = "tensorboard"


class EpochLog:
    """Writes the log of a run, atomically."""

    def __init__(self, folder: Path, finished_epochs: int) -> None:
        """Rows of epochs after `finished_epochs`, from a run that is done over, are dropped.

        Raises OutputError where a log is there that is damaged.
        """
        self.path = folder / LOG_NAME
        finished = {str(epoch) for epoch in range(1, finished_epochs + 1)}
        rows = _read_cells(self.path) if self.path.is_file() else []
        self._rows = [row for row in rows if row.get("epoch") in finished]

    @functools.cached_property
    def _board(self) -> Any:
        """TensorBoard's writer, None where it is not installed; made by the first epoch, because it makes a folder."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(log_dir=str(self.path.parent / _BOARD))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the row of `epoch` (1-based). Raises OutputError."""
        row = {"epoch": str(epoch), **{key: f"{value:.6g}" for key, value in values.items()}}
        self._rows = [*(old for old in self._rows if old["epoch"] != row["epoch"]), row]
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        write_csv(self.path, [columns, *([row.get(column, "") for column in columns] for row in self._rows)])
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, epoch)

    def write_picture(self, epoch: int, name: str, picture: ImageArray) -> None:
        """Show a picture, uint8 HxWx3 RGB, in TensorBoard, where it is installed."""
        if self._board is not None:
            self._board.add_image(name, picture, epoch, dataformats="HWC")

    def close(self) -> None:
        if (board := vars(self).get("_board")) is not None:  # which was made
            board.close()


def event_files(folder: Path) -> list[Path]:
    """What TensorBoard shows of the run that logs to `folder`. A run that was resumed has several."""
    return sorted((folder / _BOARD).glob("events.out.tfevents.*"))


def read_log(path: Path) -> tuple[list[str], list[dict[str, float]]]:
    """Columns besides the epoch, and rows, of `train_log.csv`. Cells that hold no number are left out.

    Raises OutputError where the log is missing or damaged.
    """
    try:
        cells = _read_cells(path)
    except OSError as error:
        raise OutputError(f"{path}: no log to report on ({error.strerror}); train for an epoch first") from None
    rows = [{key: number for key, text in row.items() if (number := _number(text)) is not None} for row in cells]
    rows = [row for row in rows if "epoch" in row]
    return list(dict.fromkeys(key for row in rows for key in row if key != "epoch")), rows


def _read_cells(path: Path) -> list[dict[str, str]]:
    """The rows of a log without its empty cells. Raises OutputError where it is damaged, OSError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: text for key, text in row.items() if key and text} for row in csv.DictReader(file)]
    except (ValueError, csv.Error) as error:
        raise OutputError(f"{path}: no log that can be read ({error}); repair or remove it") from None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else value
