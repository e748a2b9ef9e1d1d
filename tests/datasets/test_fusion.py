import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from thfuse_sam.datasets.fusion import FusionDataset, FusionSample, MixedPairs
from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import ImageReadError, ImageSizeError
from thfuse_sam.images import luma, read_for_sam, read_infrared, read_visible
from thfuse_sam.masks.source import LiveMasks, NoMasks, PrecomputedMasks
from thfuse_sam.masks.tree import MaskFiles

MakePairs = Callable[..., Path]


def label_by_brightness(image: np.ndarray, infrared: np.ndarray | None = None) -> np.ndarray:
    """A label map that repeats the image's red channel: where pixels go, labels must go."""
    return image[:, :, 0]


LIVE = LiveMasks(label_by_brightness)


def samples(dataset: FusionDataset) -> list[FusionSample]:
    return [dataset[index] for index in range(len(dataset))]


def assert_same(one: FusionSample, other: FusionSample) -> None:
    for key in FusionSample.__annotations__:
        left, right = one[key], other[key]  # type: ignore[literal-required]
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, key


def test_whole_images(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("a/0001",), size=(20, 30), vi_suffix=".jpg")).pairs
    sample = FusionDataset(pairs, LIVE)[0]
    shapes = {key: tuple(value.shape) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "ir": (1, 20, 30),
        "vi": (1, 20, 30),
        "vi_rgb": (3, 20, 30),
        "ir_guidance": (2, 20, 30),
        "vi_guidance": (2, 20, 30),
        "ir_labels": (20, 30),
        "vi_labels": (20, 30),
    }
    for key in ("ir", "vi", "vi_rgb", "ir_guidance", "vi_guidance"):
        value = sample[key]  # type: ignore[literal-required]
        assert value.dtype == torch.float32 and value.min() >= 0 and value.max() <= 1
    assert sample["ir_labels"].dtype == sample["vi_labels"].dtype == torch.int64
    assert sample["name"] == "a/0001" and sample["has_ir_mask"] and sample["has_vi_mask"]
    infrared, visible = read_infrared(pairs[0].ir), read_visible(pairs[0].vi)
    np.testing.assert_array_equal((sample["ir"][0] * 255).round(), infrared)
    np.testing.assert_array_equal((sample["vi_rgb"] * 255).round(), visible.transpose(2, 0, 1))
    np.testing.assert_array_equal((sample["vi"][0] * 255).round(), luma(visible))
    np.testing.assert_array_equal(sample["ir_labels"], infrared)
    np.testing.assert_array_equal(sample["ir_guidance"][0], infrared > 0)


@pytest.mark.parametrize("crop_size", [None, 8, 24, 50])
def test_images_and_masks_move_together(make_pairs: MakePairs, crop_size: int | None) -> None:
    pairs = find_pairs(make_pairs(("0",), size=(20, 31))).pairs
    dataset = FusionDataset(pairs, LIVE, crop_size=crop_size, augment=True)
    seen = set()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        infrared, red = (sample["ir"][0] * 255).round().long(), (sample["vi_rgb"][0] * 255).round().long()
        assert torch.equal(sample["ir_labels"], infrared)
        assert torch.equal(sample["vi_labels"], red)
        assert torch.equal(sample["ir_guidance"][0], (infrared > 0).float())
        assert infrared.shape == ((20, 31) if crop_size is None else (crop_size, crop_size))
        seen.add(infrared.numpy().tobytes())
    # Whole images: two mirrorings times a half turn; 50 covers everything: eight ways to lay a square.
    expected = {None: 4, 50: 8}.get(crop_size)
    assert len(seen) == expected if expected else len(seen) > 20


def test_turned_images_are_the_same_pixels(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("0",), size=(16, 16))).pairs
    plain = FusionDataset(pairs, LIVE)[0]
    dataset = FusionDataset(pairs, LIVE, crop_size=16, augment=True)
    ways = {
        torch.rot90(way, turns, (0, 1)).numpy().tobytes()
        for way in (plain["ir"][0], plain["ir"][0].flip(1))
        for turns in range(4)
    }
    seen = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        seen.add(sample["ir"][0].numpy().tobytes())
        # Edges are derived after turning, and must be the turned edges.
        assert sample["ir_guidance"][1].sum() == plain["ir_guidance"][1].sum()
    assert seen == ways


def test_random_choices_follow_seed_epoch_and_index_only(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("0", "1", "2"), size=(40, 40))).pairs
    first = FusionDataset(pairs, LIVE, crop_size=8, augment=True, seed=5)
    second = FusionDataset(pairs, LIVE, crop_size=8, augment=True, seed=5)
    for dataset in (first, second):
        dataset.set_epoch(3)
    expected = samples(first)
    for index in (2, 0, 1, 2):
        assert_same(second[index], expected[index])
    second.set_epoch(4)
    assert not torch.equal(second[0]["ir"], expected[0]["ir"])
    other_seed = FusionDataset(pairs, LIVE, crop_size=8, augment=True, seed=6)
    other_seed.set_epoch(3)
    assert not torch.equal(other_seed[0]["ir"], expected[0]["ir"])


def test_jitter_gives_other_tones_and_sizes_to_images_and_sizes_alone_to_masks(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("0",), size=(48, 64))).pairs
    plain, jittered = (FusionDataset(pairs, LIVE, crop_size=16, augment=True, jitter=jitter) for jitter in (0.0, 1.0))
    own_values = set(np.unique(read_infrared(pairs[0].ir)).tolist())
    means, sizes = {"ir": set(), "vi": set()}, set()
    for epoch in range(20):
        plain.set_epoch(epoch)
        jittered.set_epoch(epoch)
        sample = jittered[0]
        assert sample["ir"].shape == (1, 16, 16) and sample["vi_rgb"].shape == (3, 16, 16)
        assert sample["ir"].min() >= 0 and sample["ir"].max() <= 1
        assert set(sample["ir_labels"].unique().tolist()) <= own_values  # a mixture of two labels is another segment
        for key, seen in means.items():
            seen.add(round(float(sample[key].mean()), 3))  # type: ignore[literal-required]
        sizes.add(len(sample["ir_labels"].unique()))
    assert min(len(seen) for seen in means.values()) > 15 and len(sizes) > 1


def test_jitter_of_a_flat_image_keeps_it_flat(tmp_path: Path) -> None:
    for modality in ("ir", "vi"):
        (tmp_path / modality).mkdir()
        Image.new("L", (20, 18), 40).save(tmp_path / modality / "0.png")
    dataset = FusionDataset(find_pairs(tmp_path).pairs, NoMasks(), crop_size=16, augment=True, jitter=1.0)
    for epoch in range(10):
        dataset.set_epoch(epoch)
        assert dataset[0]["ir"].min() == dataset[0]["ir"].max()


def test_middle_crop_without_augmentation(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("0",), size=(20, 30))).pairs
    dataset = FusionDataset(pairs, LIVE, crop_size=10)
    np.testing.assert_array_equal((dataset[0]["ir"][0] * 255).round(), read_infrared(pairs[0].ir)[5:15, 10:20])
    dataset.set_epoch(1)
    np.testing.assert_array_equal((dataset[0]["ir"][0] * 255).round(), read_infrared(pairs[0].ir)[5:15, 10:20])


def test_small_images_are_continued_by_reflection(make_pairs: MakePairs) -> None:
    pairs = find_pairs(make_pairs(("0",), size=(5, 30))).pairs
    sample = FusionDataset(pairs, LIVE, crop_size=16)[0]
    infrared = read_infrared(pairs[0].ir)[:, 7:23]
    rows = [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    np.testing.assert_array_equal((sample["ir"][0] * 255).round(), infrared[rows])
    np.testing.assert_array_equal(sample["ir_labels"], infrared[rows])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_one_pixel_wide(make_pairs: MakePairs, size: tuple[int, int], tmp_path: Path) -> None:
    for folder in ("ir", "vi"):
        (tmp_path / folder).mkdir()
        Image.new("L", size[::-1], 7).save(tmp_path / folder / "0.png")
    dataset = FusionDataset(find_pairs(tmp_path).pairs, LIVE, crop_size=16, augment=True)
    assert dataset[0]["ir"].shape == (1, 16, 16) and (dataset[0]["ir_labels"] == 7).all()


def test_placeholders_for_missing_and_broken_masks(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = find_pairs(make_pairs(("0", "1"), size=(20, 30))).pairs
    tree = MaskFiles(tmp_path / "tree")
    tree.write("vi", "0", np.ones((20, 30), np.uint8))
    tree.write("ir", "0", np.ones((3, 3), np.uint8))
    tree.write("vi", "1", np.zeros((20, 30), np.uint8))
    first, second = samples(FusionDataset(pairs, PrecomputedMasks(tree.root, {}), crop_size=8))
    assert (first["has_ir_mask"], first["has_vi_mask"]) == (False, True)
    assert (first["ir_guidance"] == 0.5).all() and first["ir_guidance"].shape == (2, 8, 8)
    assert not first["ir_labels"].any() and (first["vi_labels"] == 1).all()
    # An image without segments has a mask: nothing is known to be there, which is not the placeholder.
    assert (second["has_ir_mask"], second["has_vi_mask"]) == (False, True)
    assert not second["vi_guidance"].any()


def test_no_masks(make_pairs: MakePairs) -> None:
    sample = FusionDataset(find_pairs(make_pairs()).pairs, NoMasks())[0]
    assert not sample["has_ir_mask"] and (sample["vi_guidance"] == 0.5).all()


def test_live_and_precomputed_samples_are_equal(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = find_pairs(make_pairs(("0", "1"), size=(40, 30))).pairs
    tree = MaskFiles(tmp_path / "tree")
    for pair in pairs:
        for modality, path in (("ir", pair.ir), ("vi", pair.vi)):
            tree.write(modality, pair.name, label_by_brightness(read_for_sam(path, modality)))
    live = FusionDataset(pairs, LIVE, crop_size=16, augment=True)
    ahead = FusionDataset(pairs, PrecomputedMasks(tree.root, {}), crop_size=16, augment=True)
    for one, other in zip(samples(live), samples(ahead), strict=True):
        assert_same(one, other)


def test_unequal_sizes_name_the_pair_and_both_sizes(make_pairs: MakePairs, tmp_path: Path) -> None:
    make_pairs(("0",), size=(20, 30))
    Image.new("RGB", (31, 20)).save(tmp_path / "pairs" / "vi" / "0.png")
    with pytest.raises(ImageSizeError, match=r"pair '0'.*30x20.*31x20"):
        FusionDataset(find_pairs(tmp_path / "pairs").pairs, NoMasks())[0]


def test_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    pair = ImagePair("a", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png"):
        FusionDataset([pair], NoMasks())[0]


def test_crop_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="crop_size"):
        FusionDataset([], NoMasks(), crop_size=0)


def test_batches(make_pairs: MakePairs) -> None:
    dataset = FusionDataset(find_pairs(make_pairs(("0", "1"))).pairs, LIVE, crop_size=16, augment=True)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["ir"].shape == (2, 1, 16, 16) and batch["ir_labels"].shape == (2, 16, 16)
    assert batch["has_ir_mask"].dtype == torch.bool and batch["has_ir_mask"].tolist() == [True, True]
    assert batch["name"] == ["0", "1"]


def test_pickling(make_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = find_pairs(make_pairs()).pairs
    MaskFiles(tmp_path / "tree").write("ir", "0001", np.ones((32, 48), np.uint8))
    dataset = FusionDataset(pairs, PrecomputedMasks(tmp_path / "tree", {}), crop_size=8, augment=True)
    dataset.set_epoch(7)
    assert_same(pickle.loads(pickle.dumps(dataset))[1], dataset[1])  # noqa: S301


def test_several_data_sets_are_one_with_crops_of_their_own(make_pairs: MakePairs, tmp_path: Path) -> None:
    roots = [make_pairs(("x", "y"), root=tmp_path / name) for name in ("one", "two")]
    parts = {
        root.name: FusionDataset(find_pairs(root).pairs, NoMasks(), crop_size=16, augment=True, seed=index)
        for index, root in enumerate(roots)
    }
    mixed = MixedPairs(parts)
    assert [mixed[index]["name"] for index in range(len(mixed))] == ["one/x", "one/y", "two/x", "two/y"]
    before = mixed[0]["ir"], mixed[2]["ir"]
    assert not before[0].equal(before[1])  # the same image, another crop
    mixed.set_epoch(1)
    assert not mixed[0]["ir"].equal(before[0]) or not mixed[2]["ir"].equal(before[1])
