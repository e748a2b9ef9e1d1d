"""The mask generator against segment_anything's own, on a model whose decoder finds regions of equal colour."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.errors import UsageError
from thfuse_sam.sam.generator import AutomaticMaskGenerator, GeneratorSettings, enlarge, mask_boxes
from thfuse_sam.sam.nano import build_vit_nano

SIDE = 256  # of the model's input
LOW = SIDE // 4  # of the decoder's logits
SETTINGS = GeneratorSettings(points_per_side=10, points_per_batch=40)


class PooledPixels(nn.Module):
    """In place of the image encoder: the input itself at the decoder's resolution."""

    img_size = SIDE

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, SIDE // LOW)


class PlainPoints(nn.Module):
    """In place of the prompt encoder: the points as they are."""

    def forward(self, points: tuple[Tensor, Tensor], boxes: None, masks: None) -> tuple[Tensor, Tensor]:
        return points[0], points[1]

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1)


class RegionOracle(nn.Module):
    """In place of the mask decoder: the pixels of the point's colour, at three tolerances, with ragged borders.

    Quality and sharpness depend on the colour, so that every filter has something to keep and something to drop.
    """

    def __init__(self) -> None:
        super().__init__()
        noise = torch.randn((3, LOW, LOW), generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise)

    def forward(
        self, image_embeddings: Tensor, sparse_prompt_embeddings: Tensor, **others: Any
    ) -> tuple[Tensor, Tensor]:
        cells = (sparse_prompt_embeddings[:, 0] / (SIDE // LOW)).long().clamp(0, LOW - 1)
        image = image_embeddings[0]
        colours = image[:, cells[:, 1], cells[:, 0]].T
        distance = (image[None] - colours[:, :, None, None]).abs().amax(1)
        key = torch.sin(colours.sum(1) * 12.9) * 0.5 + 0.5
        tolerances = torch.tensor([0.1, 0.25, 0.6])
        logits = (tolerances[:, None, None] - distance[:, None]) * (10 + 60 * key)[:, None, None, None]
        quality = 0.84 + 0.15 * torch.stack([key, (key * 7) % 1, (key * 3) % 1], dim=1)
        return logits + self.noise * 0.7, quality


def oracle_sam() -> Sam:
    return Sam(PooledPixels(), PlainPoints(), RegionOracle(), [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]).eval()


def scene(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Ellipses and boxes of plain colours on a shaded ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + 50 * y // height, 80 + 40 * x // width, np.full((height, width), 90)], axis=-1)
    for _ in range(14):
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        ry, rx = random.uniform(0.05, 0.22, 2) * max(height, width)
        dy, dx = np.abs(y - cy) / ry, np.abs(x - cx) / rx
        inside = dy**2 + dx**2 < 1 if random.random() < 0.6 else np.maximum(dy, dx) < 0.8
        image[inside] = random.integers(0, 256, 3)
    return image.astype(np.uint8)


def stock_settings(settings: GeneratorSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in GeneratorSettings.__dataclass_fields__}


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (120, 160)),
        ({}, (250, 90)),
        ({}, (200, 260)),
        ({"stability_score_thresh": 0.7, "box_nms_thresh": 0.5, "stability_score_offset": 2.0}, (120, 160)),
        ({"pred_iou_thresh": 0.0, "stability_score_thresh": 0.8}, (90, 90)),
        ({"crop_n_layers": 1}, (110, 150)),
        ({"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.5}, (150, 110)),
        ({"min_mask_region_area": 40}, (120, 160)),
        ({"min_mask_region_area": 40, "crop_n_layers": 1, "crop_nms_thresh": 0.4}, (110, 150)),
    ],
)
def test_equals_stock_generator(changes: dict[str, Any], size: tuple[int, int]) -> None:
    image = scene(*size)
    settings = replace(SETTINGS, **changes)
    sam = oracle_sam()
    expected = SamAutomaticMaskGenerator(sam, **stock_settings(settings)).generate(image)
    found = AutomaticMaskGenerator(sam, settings).generate(image)

    assert len(expected) >= 5, "the scene must give the filters something to do"
    assert len(found) == len(expected)
    for instance, record in zip(found, expected, strict=True):
        assert (instance.mask == record["segmentation"]).mean() >= 0.999
        assert instance.area == instance.mask.sum() == pytest.approx(record["area"], abs=3)
        assert np.abs(np.subtract(instance.bbox, record["bbox"])).max() <= 1
        assert instance.point == pytest.approx(record["point_coords"][0])
        assert instance.predicted_iou == pytest.approx(record["predicted_iou"])
        assert instance.stability_score == pytest.approx(record["stability_score"], abs=1e-3)


def test_filters_have_work_in_the_comparison() -> None:
    """The oracle's candidates are neither all kept nor all dropped by any one filter."""
    sam, image = oracle_sam(), scene(110, 150)
    counts = {
        name: len(AutomaticMaskGenerator(sam, replace(SETTINGS, **changes)).generate(image))
        for name, changes in {
            "default": {},
            "any quality": {"pred_iou_thresh": 0.0},
            "any stability": {"stability_score_thresh": 0.0},
            "any overlap": {"box_nms_thresh": 1.0},
            "crops": {"crop_n_layers": 1},
        }.items()
    }
    assert all(count > counts["default"] for name, count in counts.items() if name != "default"), counts


def test_label_map_agrees_with_stock_masks() -> None:
    image, sam = scene(120, 160), oracle_sam()
    records = SamAutomaticMaskGenerator(sam, **stock_settings(SETTINGS)).generate(image)
    expected = np.zeros(image.shape[:2], dtype=np.uint8)
    for label, record in enumerate(sorted(records, key=lambda record: -record["area"]), start=1):
        expected[record["segmentation"]] = label
    found = AutomaticMaskGenerator(sam, SETTINGS).label_map(image)
    assert found.dtype == np.uint8
    assert (found == expected).mean() >= 0.999


def test_untrained_nano_equals_stock() -> None:
    """Through the real encoder and decoder; an untrained model's masks pass only open filters."""
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    settings = GeneratorSettings(
        points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, stability_score_offset=1e-3, box_nms_thresh=1
    )
    expected = SamAutomaticMaskGenerator(sam, **stock_settings(settings)).generate(image)
    # The stock generator also returns masks without any pixel.
    expected = [record for record in expected if record["area"]]
    found = AutomaticMaskGenerator(sam, settings).generate(image)
    assert len(found) == len(expected) > 0
    for instance, record in zip(found, expected, strict=True):
        assert (instance.mask == record["segmentation"]).mean() >= 0.999


def test_two_runs_are_equal() -> None:
    image, settings = scene(100, 130), replace(SETTINGS, crop_n_layers=1)
    first, second = (AutomaticMaskGenerator(oracle_sam(), settings).generate(image) for _ in range(2))
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (one.bbox, one.predicted_iou, one.point) == (other.bbox, other.predicted_iou, other.point)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 1200), (33, 17)])
def test_any_size(size: tuple[int, int], layers: int) -> None:
    settings = replace(SETTINGS, points_per_side=4, crop_n_layers=layers)
    label_map = AutomaticMaskGenerator(oracle_sam(), settings).label_map(scene(*size))
    assert label_map.shape == size


def test_no_mask_is_an_empty_list_and_a_map_of_zeros() -> None:
    generator = AutomaticMaskGenerator(oracle_sam(), replace(SETTINGS, pred_iou_thresh=1.0, min_mask_region_area=9))
    black = np.zeros((50, 70, 3), dtype=np.uint8)
    assert generator.generate(black) == []
    assert not generator.label_map(black).any()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_refuses_other_arrays(image: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="uint8 HxWx3"):
        AutomaticMaskGenerator(oracle_sam()).generate(image)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (100, 37), (480, 640), (1, 30)])
def test_enlarge_equals_two_interpolations(size: tuple[int, int]) -> None:
    sam = oracle_sam()
    logits = torch.randn((5, LOW, LOW), generator=torch.Generator().manual_seed(1)) * 10
    scale = SIDE / max(size)
    seen = max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
    expected = sam.postprocess_masks(logits[None], seen, size)[0]
    assert torch.allclose(enlarge(logits, SIDE, seen, size), expected, atol=2e-5)


def test_mask_boxes() -> None:
    masks = torch.zeros((3, 6, 9), dtype=torch.bool)
    masks[0, 2:4, 5:8] = True
    masks[1, 5, 0] = True
    assert mask_boxes(masks).tolist() == [[5, 2, 7, 3], [0, 5, 0, 5], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("points_per_side", 0, "from 1 to 512"),
        ("points_per_side", 3.5, "a whole number"),
        ("points_per_side", True, "a whole number"),
        ("points_per_batch", -1, "from 1"),
        ("pred_iou_thresh", 1.01, "a number from 0 to 1"),
        ("stability_score_thresh", float("nan"), "from 0 to 1"),
        ("stability_score_offset", -0.1, "from 0"),
        ("box_nms_thresh", "high", "from 0 to 1"),
        ("crop_n_layers", 5, "from 0 to 4"),
        ("crop_nms_thresh", 2, "from 0 to 1"),
        ("crop_overlap_ratio", float("inf"), "from 0 to 1"),
        ("crop_n_points_downscale_factor", 0, "from 1"),
        ("min_mask_region_area", -5, "from 0"),
    ],
)
def test_settings_name_option_value_and_range(name: str, value: Any, limits: str) -> None:
    with pytest.raises(UsageError) as caught:
        GeneratorSettings(**{name: value})
    assert str(caught.value).startswith(f"--{name} {value}: must be ")
    assert limits in str(caught.value)


def test_settings_refuse_a_layer_without_points() -> None:
    with pytest.raises(UsageError, match="--crop_n_points_downscale_factor 4"):
        GeneratorSettings(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4)


def test_settings_are_plain_numbers() -> None:
    settings = GeneratorSettings(points_per_side=np.int64(16), pred_iou_thresh=1)  # type: ignore[arg-type]
    assert type(settings.points_per_side) is int
    assert type(settings.pred_iou_thresh) is float


def test_default_settings_are_the_stock_ones() -> None:
    import inspect

    parameters = inspect.signature(SamAutomaticMaskGenerator.__init__).parameters
    assert stock_settings(GeneratorSettings()) == {
        name: parameters[name].default for name in GeneratorSettings.__dataclass_fields__
    }
