"""Stand-ins for SAM that worker processes can import: tests put this folder on PYTHONPATH."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.manifest import Signature
from thfuse_sam.precompute.plan import Plan
from thfuse_sam.precompute.worker import make_masks
from thfuse_sam.precompute.writing import RunSummary, write_masks

SIGNATURE = Signature("vit_nano", "0" * 64, {"points_per_side": 4}, "0.0")


def precompute(plan: Plan, generator: Any, summary: RunSummary, num_workers: int = 0) -> None:
    """Fill the tree in this process, as the command does with one device."""
    results = make_masks(plan.todo, generator, plan.options, num_workers)
    write_masks(plan, results, summary, num_workers=num_workers)


@dataclass(frozen=True)
class Segment:
    mask: npt.NDArray[np.bool_]
    bbox: tuple[int, int, int, int] = (0, 0, 1, 1)
    predicted_iou: float = 0.9
    stability_score: float = 0.9
    point: tuple[float, float] = (0.0, 0.0)

    @property
    def area(self) -> int:
        return int(self.mask.sum())


class Stub:
    """Two overlapping segments by brightness."""

    def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Segment]:
        return self.generate_from(self.encode(image))

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        size = (image.shape[0], image.shape[1])
        return ImageEmbedding(image[None, :, :, 0] / 255, size, size)

    def generate_from(self, embedding: ImageEmbedding, infrared: Any = None) -> Sequence[Segment]:
        values = embedding.features[0].astype(np.float64) * 255
        return [Segment(values > 200.4), Segment(values > 100.4)]


class Dying(Stub):
    """Kills its own process: once, or always on images whose first pixel is 13."""

    def __init__(self, marker: Path, after: int) -> None:
        self._marker = marker
        self._left = after

    def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Segment]:
        self._left -= 1
        if self._left < 0 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if image[0, 0, 0] == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return super().generate(image)


def make_stub(device: str) -> Stub:
    assert device == "cpu"
    return Stub()


def make_dying(marker: Path, after: int, device: str) -> Stub:
    return Dying(marker, after)


def make_dead(device: str) -> Stub:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class HeadKiller(Stub):
    """Kills the process that holds the Ray cluster together, once."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Segment]:
        import psutil

        if not self._marker.exists():
            self._marker.touch()
            for process in _ray_driver(psutil.Process()).children(recursive=True):
                if process.name() == "gcs_server":
                    process.kill()
        time.sleep(10.0)  # so that work is left when the cluster is lost, on a busy machine, too
        return super().generate(image)


def _ray_driver(process: Any) -> Any:
    """Of this worker's ancestors the one that started Ray: the nearest that is a plain Python process."""
    return next(parent for parent in process.parents() if parent.name().startswith("python"))


def make_head_killer(marker: Path, device: str) -> Stub:
    return HeadKiller(marker)
