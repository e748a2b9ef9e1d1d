"""Small generated image pairs that many tests read from disk."""

import thfuse_sam  # before torch: it settles how torch's threads wait

# isort: split
import logging
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

settings.register_profile("any machine", deadline=None, derandomize=True)  # no chance; a slow or busy one is no fault
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random numbers that a test draws without a seed do not depend on which tests ran before in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_teardown() -> None:
    """Commands set up the log of the whole process; what the next test finds in it must not depend on that."""
    package = logging.getLogger(thfuse_sam.__name__)
    package.setLevel(logging.NOTSET)
    package.handlers.clear()


MakePairs = Callable[..., Path]


def scene(index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Infrared (uint8 HxW) and visible (uint8 HxWx3) of (height, width) `size`; different for every index."""
    height, width = size
    random = np.random.default_rng(index)
    infrared = np.linspace(20, 90, width)[None] + random.integers(0, 8, size)
    visible = np.stack([np.linspace(40, 200, height)[:, None] + random.integers(0, 8, size)] * 3, axis=2)
    top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
    box = np.s_[top : top + height // 3, left : left + width // 3]
    infrared[box] = 230
    visible[box] = (180, 60, 30)
    return infrared.astype(np.uint8), visible.astype(np.uint8)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of parameters do not show the bytes of files: one that holds the time of its making has another name in
    each process of a parallel run, which then does not start.
    """
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 100) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of CUDA are skipped where there is none, also where `-m` replaces the selection of pyproject.toml."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background, which makes processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_pairs(tmp_path: Path) -> MakePairs:
    """Write pairs and return their data set's folder.

    make_pairs(names=("0001", "0002"), size=(32, 48), root=tmp_path / "pairs", ir="ir", vi="vi",
    ir_suffix=".png", vi_suffix=".png"); a name may hold folders.
    """

    def make(
        names: Sequence[str] = ("0001", "0002"),
        *,
        size: tuple[int, int] = (32, 48),
        root: Path | None = None,
        ir: str = "ir",
        vi: str = "vi",
        ir_suffix: str = ".png",
        vi_suffix: str = ".png",
    ) -> Path:
        root = root or tmp_path / "pairs"
        for index, name in enumerate(names):
            infrared, visible = scene(index, size)
            for folder, suffix, image in ((ir, ir_suffix, infrared), (vi, vi_suffix, visible)):
                path = root / folder / (name + suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
        return root

    return make
