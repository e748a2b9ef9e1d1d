"""The sample pair that these tests work on, and its files."""

from pathlib import Path

import pytest

from thfuse_sam.shipped import shipped_root

SAMPLE = shipped_root() / "datasets" / "sample" / "test"


@pytest.fixture
def pair() -> tuple[Path, Path]:
    ir = sorted((SAMPLE / "ir").iterdir())[0]
    return ir, next(path for path in (SAMPLE / "vi").iterdir() if path.stem == ir.stem)
