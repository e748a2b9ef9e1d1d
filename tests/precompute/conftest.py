"""Small images and stand-ins for SAM, shared by the tests of the precompute room."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.images import MODALITIES, Modality, write_image
from thfuse_sam.precompute.jobs import Job, list_jobs

HERE = Path(__file__).parent


@pytest.fixture
def stub_masks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `stub_masks` importable here and in worker processes."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("stub_masks", None)


@pytest.fixture
def images(tmp_path: Path) -> dict[Modality, Path]:
    """The folders of ten random pairs; no pixel is 13, which kills the process of a `Dying` stub."""
    generator = np.random.default_rng(0)
    for modality in MODALITIES:
        for index in range(10):
            image = generator.integers(20, 256, (12, 16, 3), dtype=np.uint8)
            write_image(tmp_path / modality / f"{index:02d}.png", image)
    return {modality: tmp_path / modality for modality in MODALITIES}


def jobs_of(folders: dict[Modality, Path]) -> list[Job]:
    """A job for each file."""
    return list_jobs({key: {path.stem: path for path in folder.iterdir()} for key, folder in folders.items()})
