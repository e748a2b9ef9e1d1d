"""Keeping what thermal images measured: their numbers, as they lie on the fused images."""

import logging
from pathlib import Path

from thfuse_sam.datasets.aligned import registered_numbers
from thfuse_sam.errors import first_of
from thfuse_sam.fusion.fusing import FusedPair
from thfuse_sam.images import write_numbers

_SHOWN = 5  # names in a line

log = logging.getLogger(__name__)


def temperature_path(fused: Path) -> Path:
    """Where the numbers of the infrared image go, beside the fused image."""
    return fused.with_name(f"{fused.stem}_temperature.tiff")


class TemperatureKeeper:
    """Writes them; an observer of `fuse_pairs`."""

    def __init__(self) -> None:
        self.written: list[Path] = []
        self._without: list[str] = []

    def add(self, result: FusedPair) -> None:
        """Write those of one pair. Raises ImageReadError and OutputError."""
        numbers = registered_numbers(result.pair, result.placement)
        if numbers is None:
            self._without.append(result.pair.name)
        else:
            path = temperature_path(result.path)
            write_numbers(path, numbers)
            self.written.append(path)

    def warn(self) -> None:
        """Name the pairs whose infrared image has none."""
        if self._without:
            log.warning(
                "8 bits hold no temperatures to keep; infrared images of 8 bits: %s", first_of(self._without, _SHOWN)
            )
