import numpy as np
import pytest

from thfuse_sam.fusion.rules import RULES, fuse_by_rule


def images(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, size, np.uint8), random.integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [(1, 1), (31, 50), (40, 64)])
def test_equal_sources_are_kept_at_any_size(name: str, size: tuple[int, int]) -> None:
    image, other = images(size)
    fused = fuse_by_rule(name, image, image)
    assert fused.dtype == np.uint8 and np.abs(fused.astype(int) - image).max() <= 1
    assert fuse_by_rule(name, image, other).shape == size


def test_average_and_maximum_by_hand() -> None:
    dark, bright = np.array([[0, 9]], np.uint8), np.array([[255, 4]], np.uint8)
    assert fuse_by_rule("avg", dark, bright).tolist() == [[128, 6]]
    assert fuse_by_rule("max", dark, bright).tolist() == [[255, 9]]


@pytest.mark.parametrize("name", ["LP", "GFF"])
def test_the_detail_of_either_source_is_kept(name: str) -> None:
    texture, _ = images((64, 64))
    flat = np.full((64, 64), 128, np.uint8)
    spread = fuse_by_rule(name, texture, flat).std()
    assert spread > 0.8 * texture.std() > 1.2 * fuse_by_rule("avg", texture, flat).std()
    assert fuse_by_rule(name, flat, texture).std() == pytest.approx(spread, rel=0.05)
