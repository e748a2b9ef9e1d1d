"""The mask generator against segment_anything's own, on a model whose decoder finds regions of equal colour."""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.agreement import best_ious, equal_pixels, recall
from benchmarks.oracle import RegionOracle, own_generator, stock_masks
from thfuse_sam.errors import DeviceError, UsageError
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.instances import Instance
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, GeneratorSettings
from thfuse_sam.sam import mask_model as mask_model_module
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.crops import coarse_to_fine
from thfuse_sam.sam.decoder import DecodedPrompts, PointDecoder
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.postprocess import mask_boxes, upsample_logits
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.sam.tiny_vit import build_vit_t
from tools.scenes import render_scene

ROOT = Path(__file__).parents[2]
SIDE = 256  # of the model's input
LOW = SIDE // 4  # of the decoder's logits
SETTINGS = GeneratorSettings(points_per_side=10, points_per_batch=40)


class PooledPixels(nn.Module):
    """In place of the image encoder: the input itself at the decoder's resolution."""

    img_size = SIDE

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, SIDE // LOW)


class PlainPoints(nn.Module):
    """In place of the prompt encoder: the points as they are, and the centres of boxes."""

    def forward(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: None) -> tuple[Tensor, Tensor]:
        if boxes is not None:
            points = boxes.view(-1, 2, 2).mean(1, keepdim=True), boxes
        assert points is not None
        return points[0], points[1]

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1)


class ColourOracle(nn.Module):
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
    return Sam(PooledPixels(), PlainPoints(), ColourOracle(), [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]).eval()


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
    ours_alone = {"precision", "adaptive_points", "thermal_points"}
    return {name: getattr(settings, name) for name in GeneratorSettings.__dataclass_fields__ if name not in ours_alone}


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


OPEN = GeneratorSettings(
    points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, stability_score_offset=1e-3, box_nms_thresh=1
)


@pytest.mark.parametrize(
    ("changes", "size"), [({}, (60, 90)), ({}, (90, 50)), ({"crop_n_layers": 1, "points_per_batch": "auto"}, (60, 90))]
)
def test_untrained_nano_equals_stock(changes: dict[str, Any], size: tuple[int, int]) -> None:
    """Through the real encoder and decoder; an untrained model's masks pass only open filters."""
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(*size)
    settings = replace(OPEN, **changes)
    stock = stock_settings(replace(settings, points_per_batch=64))
    expected = SamAutomaticMaskGenerator(sam, **stock).generate(image)
    # The stock generator also returns masks without any pixel.
    expected = [record for record in expected if record["area"]]
    generator = AutomaticMaskGenerator(sam, settings)
    assert isinstance(generator.decoder, PointDecoder)
    found = generator.generate(image)
    assert len(found) == len(expected) > 0
    for instance, record in zip(found, expected, strict=True):
        assert (instance.mask == record["segmentation"]).mean() >= 0.999


@pytest.mark.parametrize(
    ("build", "size", "points"),
    [
        (lambda: build_vit_t(128), (90, 130), 6),
        (lambda: build_vit_t(128), (130, 60), 6),
        (lambda: build_vit_nano(256), (90, 130), 8),
        pytest.param(MODEL_TYPES["vit_b"].build, (120, 160), 8, marks=pytest.mark.slow),
    ],
    ids=["vit_t", "vit_t tall", "vit_nano", "vit_b"],
)
def test_label_map_equals_stock_with_real_statistics(build: Any, size: Any, points: int) -> None:
    torch.manual_seed(0)
    sam, image = build().eval(), scene(*size)
    oracle = RegionOracle(image, sam.image_encoder.img_size, regions=(30, 20, 8))
    records = stock_masks(sam, image, oracle, {"points_per_side": points})
    settings = GeneratorSettings(points_per_side=points, points_per_batch="auto")
    found = own_generator(sam, oracle, settings).generate(image)
    assert len(found) == len(records) >= 3
    expected = [record["segmentation"] for record in records]
    assert equal_pixels(expected, [instance.mask for instance in found]) >= 0.999


def passes(found: Instance, settings: GeneratorSettings) -> bool:
    sure = found.predicted_iou >= settings.pred_iou_thresh
    return sure and found.stability_score >= settings.stability_score_thresh


@pytest.mark.parametrize("seed", [3, 4])
def test_shipped_nano_equals_stock_and_nearly_itself_in_bf16(seed: int) -> None:
    """Trained weights on rendered scenes, with the thresholds that they ship with, a quarter of their points."""
    resolved = resolve_sam("vit_nano", ROOT / "models" / "vit_nano.safetensors")
    sam, image = build_sam(resolved.model_type, resolved.checkpoint), render_scene(seed, height=240, width=320).visible
    settings = replace(GENERATOR_DEFAULTS["vit_nano"], points_per_side=8)
    records = SamAutomaticMaskGenerator(sam, **stock_settings(replace(settings, points_per_batch=64))).generate(image)
    expected = [record["segmentation"] for record in records]
    found = [instance.mask for instance in AutomaticMaskGenerator(sam, settings).generate(image)]
    assert len(found) == len(expected) >= 3
    assert equal_pixels(expected, found) >= 0.999
    # Without thresholds: a mask at one of them would come and go with the rounding, and another take its place.
    every = replace(settings, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
    whole, half = (
        AutomaticMaskGenerator(sam, replace(every, precision=precision)).generate(image)
        for precision in ("fp32", "bf16")
    )
    ious = best_ious([found.mask for found in whole], [found.mask for found in half])
    assert len(half) == len(whole) and ious.mean() >= 0.99
    # Borders of single masks that SAM itself holds for bad, and that no user gets, may lie anywhere.
    given = np.array([passes(found, settings) for found in whole])
    assert given.sum() > 100 and ious[given].min() >= 0.95


def test_bf16_masks_are_nearly_those_of_fp32() -> None:
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    settings = replace(OPEN, points_per_side=2)
    full, half = (
        AutomaticMaskGenerator(sam, replace(settings, precision=precision)).generate(image)
        for precision in ("fp32", "bf16")
    )
    assert len(half) == len(full) > 0
    masks = np.stack([instance.mask.ravel() for instance in full]).astype(float)
    others = np.stack([instance.mask.ravel() for instance in half]).astype(float)
    common = masks @ others.T
    ious = (common / (masks.sum(1)[:, None] + others.sum(1)[None] - common)).max(1)
    assert ious.mean() >= 0.99


def test_adaptive_points_save_work_and_lose_few_masks() -> None:
    image = scene(120, 160)
    sam = build_vit_nano(128).eval()
    oracle = RegionOracle(image, 128, regions=(40, 20, 8))
    settings = GeneratorSettings(points_per_side=16, points_per_batch="auto")
    masks, points = {}, {}
    for adaptive in (False, True):
        oracle.points = 0
        generator = own_generator(sam, oracle, replace(settings, adaptive_points=adaptive))
        masks[adaptive] = [instance.mask for instance in generator.generate(image)]
        points[adaptive] = oracle.points
    assert points[False] == 256
    assert points[True] < 240
    assert len(masks[False]) >= 5
    assert recall(masks[False], masks[True]) >= 0.95


def test_adaptive_points_trust_no_rough_mask() -> None:
    """Whatever the settings let pass: with `vit_nano`'s thresholds six of ten masks were lost on photos."""
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    full, adaptive = (
        AutomaticMaskGenerator(sam, replace(OPEN, adaptive_points=adaptive)).label_map(image)
        for adaptive in (False, True)
    )
    assert full.any()
    np.testing.assert_array_equal(adaptive, full)


@pytest.mark.parametrize("batch", [1, 7, "auto"])
def test_adaptive_points_do_not_depend_on_the_batch(batch: Any) -> None:
    image, sam = scene(60, 80), build_vit_nano(64).eval()
    settings = GeneratorSettings(points_per_side=8, adaptive_points=True)
    found = []
    for points_per_batch in (64, batch):
        oracle = RegionOracle(image, 64, regions=(12, 8, 4))
        generator = own_generator(sam, oracle, replace(settings, points_per_batch=points_per_batch))
        found.append((generator.label_map(image), oracle.points))
    assert found[0][1] == found[1][1]
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_every_point_of_a_grid_is_in_one_level() -> None:
    for side in (1, 2, 3, 8, 13):
        levels = coarse_to_fine(side**2)
        assert sorted(np.concatenate(levels)) == list(range(side**2))


def test_masks_again_from_an_embedding() -> None:
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    generator = AutomaticMaskGenerator(sam, OPEN)
    embedding = generator.encode(image)
    np.testing.assert_array_equal(generator.label_map_from(embedding), generator.label_map(image))
    stricter = AutomaticMaskGenerator(sam, replace(OPEN, box_nms_thresh=0.2))
    expected, found = stricter.generate(image), stricter.generate_from(embedding)
    assert 0 < len(found) < len(generator.generate(image))
    assert [instance.bbox for instance in found] == [instance.bbox for instance in expected]


def test_a_stored_embedding_is_the_same_but_for_half_precision() -> None:
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    embedding = AutomaticMaskGenerator(sam, OPEN).encode(image)
    again = ImageEmbedding.from_bytes(embedding.to_bytes())
    assert embedding.features.dtype == np.float32
    assert again.features.dtype == np.float16
    assert again.features.shape == embedding.features.shape == (128, 4, 4)
    for one in (embedding, again):
        assert (one.input_size, one.image_size) == ((43, 64), (60, 90))
    np.testing.assert_allclose(again.features, embedding.features, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(again.features, embedding.rounded().features)
    generator = AutomaticMaskGenerator(sam, replace(OPEN, points_per_side=2))
    np.testing.assert_array_equal(generator.label_map_from(again), generator.label_map_from(embedding.rounded()))


def test_an_embedding_has_no_crops_and_belongs_to_one_model() -> None:
    sam = oracle_sam()
    embedding = AutomaticMaskGenerator(sam, SETTINGS).encode(scene(60, 90))
    with pytest.raises(UsageError, match="`crop_n_layers` 1"):
        AutomaticMaskGenerator(sam, replace(SETTINGS, crop_n_layers=1)).generate_from(embedding)
    with pytest.raises(UsageError, match=r"another kind of model \(input 171x256, expected 43x64"):
        AutomaticMaskGenerator(build_vit_nano(64).eval()).generate_from(embedding)


NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_out_of_memory_halves_the_batch(error: Exception) -> None:
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    generator = AutomaticMaskGenerator(sam, replace(OPEN, points_per_batch=16))
    expected = generator.label_map(image)
    decode, tried = generator.decoder.decode, []

    def small_only(prepared: Any, points: Tensor) -> Any:
        tried.append(len(points))
        if len(points) > 5:
            raise error
        return decode(prepared, points)

    generator.decoder.decode = small_only  # type: ignore[method-assign]
    np.testing.assert_array_equal(generator.label_map(image), expected)
    assert tried == [16, 8, 4, 4, 4, 4]
    # The next image starts where this one got to.
    generator.label_map(image)
    assert tried[6:] == [4, 4, 4, 4]


def test_out_of_memory_for_one_point_is_one_line() -> None:
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), replace(OPEN, points_per_batch=2))

    def fail(prepared: Any, points: Tensor) -> Any:
        raise MemoryError

    generator.decoder.decode = fail  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"`points_per_batch` 1: not enough memory on cpu .* 60x90"):
        generator.generate(scene(60, 90))


def test_out_of_memory_in_the_encoder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval())

    def fail(*arguments: object, **options: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(mask_model_module, "encode_images", fail)
    with pytest.raises(DeviceError, match="`device` cpu: not enough memory for the image encoder"):
        generator.encode(scene(20, 30))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), OPEN)

    def fail(prepared: Any, points: Tensor) -> Any:
        raise RuntimeError("shapes differ")

    generator.decoder.decode = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        generator.generate(scene(60, 90))


def test_automatic_batch_depends_on_the_size_of_the_embedding() -> None:
    chosen = {}
    for name, model in {"vit_nano": build_vit_nano(512), "vit_t": build_vit_t(1024)}.items():
        generator = AutomaticMaskGenerator(model, GeneratorSettings(points_per_batch="auto"))
        grid, channels = model.prompt_encoder.image_embedding_size[0], model.prompt_encoder.embed_dim
        chosen[name] = generator._points_at_once(torch.zeros(1, channels, grid, grid))
    assert chosen == {"vit_nano": 32, "vit_t": 4}


def test_signature_holds_what_decides_about_masks() -> None:
    plain = GeneratorSettings()
    assert "points_per_batch" not in plain.signature()
    assert "precision" not in plain.signature(), "the manifest keeps the resolved one"
    assert "adaptive_points" not in plain.signature(), "trees from before the setting stay valid"
    assert replace(plain, adaptive_points=True).signature()["adaptive_points"] is True
    assert replace(plain, points_per_batch="auto").signature() == plain.signature()
    assert "thermal_points" not in plain.signature()
    warm = replace(plain, points_per_side=16, thermal_points="auto")
    assert (
        warm.signature()
        == replace(warm, thermal_points=64).signature()
        == {**replace(plain, points_per_side=16).signature(), "thermal_points": 64}
    )
    assert hash(plain) == hash(GeneratorSettings())


def test_live_masks_in_a_training_in_half_precision_are_the_precomputed_ones() -> None:
    generator, image = AutomaticMaskGenerator(build_vit_nano(128).eval(), OPEN), scene(60, 80)
    expected = generator.generate(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = generator.generate(image)
    for one, other in zip(expected, found, strict=True):
        assert (one.predicted_iou, one.stability_score) == (other.predicted_iou, other.stability_score)
        np.testing.assert_array_equal(one.mask, other.mask)


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
def test_upsampling_equals_two_interpolations(size: tuple[int, int]) -> None:
    sam = oracle_sam()
    logits = torch.randn((5, LOW, LOW), generator=torch.Generator().manual_seed(1)) * 10
    frame = Frame.of(size, SIDE)
    expected = sam.postprocess_masks(logits[None], frame.input_size, size)[0]
    assert torch.allclose(upsample_logits(logits, frame), expected, atol=2e-5)


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
        ("points_per_batch", "all", "a whole number"),
        ("adaptive_points", 1, "true or false"),
    ],
)
def test_settings_name_option_value_and_range(name: str, value: Any, limits: str) -> None:
    with pytest.raises(UsageError) as caught:
        GeneratorSettings(**{name: value})
    assert str(caught.value).startswith(f"`{name}` {value}: must be ")
    assert limits in str(caught.value)


def test_settings_refuse_a_layer_without_points() -> None:
    with pytest.raises(UsageError, match="`crop_n_points_downscale_factor` 4"):
        GeneratorSettings(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4)


def test_settings_are_plain_numbers() -> None:
    settings = GeneratorSettings(points_per_side=np.int64(16), pred_iou_thresh=1)  # type: ignore[arg-type]
    assert type(settings.points_per_side) is int
    assert type(settings.pred_iou_thresh) is float


def test_default_settings_are_the_stock_ones() -> None:
    import inspect

    parameters = inspect.signature(SamAutomaticMaskGenerator.__init__).parameters
    assert stock_settings(GeneratorSettings()) == {
        name: parameters[name].default for name in stock_settings(GeneratorSettings())
    }


def test_compiled_masks_are_equal_and_nothing_is_compiled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch traces it; the code that it would make of that needs a GPU."""
    compile_, graphs = torch.compile, []

    def trace(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=trace, fullgraph=True))
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        64, depth=3, embed_dim=32, num_heads=2, out_chans=32, use_rel_pos=True, window_size=3, global_attn_indexes=(1,)
    )
    sam = assemble_sam(encoder, 64, 32, mlp_dim=64).eval()
    generator = AutomaticMaskGenerator(sam, replace(OPEN, points_per_batch=16, thermal_points=8))
    warm = np.zeros((40, 60), np.uint8)
    warm[10:22, 5:11] = warm[10:22, 30:36] = 200
    expected = [generator.label_map(scene(40, 60, seed), warm) for seed in range(2)]
    generator.compile()
    assert len(graphs) == 5, "a windowed block, a global block, the decoder for points and for boxes, its upsampling"
    for seed in range(2):
        np.testing.assert_array_equal(generator.label_map(scene(40, 60, seed), warm), expected[seed])
    assert len(graphs) <= 6, "upsampling may be compiled once more, for an image of other proportions"


def test_what_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    compile_ = torch.compile

    def fail(*_: object) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend=fail))
    generator = AutomaticMaskGenerator(build_vit_nano(64).eval(), OPEN)
    expected = generator.label_map(scene(40, 60))
    with caplog.at_level(logging.INFO, "thfuse_sam"):
        generator.compile()
    np.testing.assert_array_equal(generator.label_map(scene(40, 60)), expected)
    assert "SAM runs as it is, because it cannot be compiled here" in caplog.text and "no compiler" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("adaptive", [False, True])
def test_threads_that_decode_batches_of_their_own_find_the_same_masks(adaptive: bool) -> None:
    torch.manual_seed(0)
    sam, (infrared, visible) = build_vit_nano(64).eval(), (np.zeros((60, 90), np.uint8), scene(60, 90))
    infrared[20:40, 30:50] = infrared[5:15, 70:80] = 200
    settings = replace(OPEN, points_per_side=6, points_per_batch=4, adaptive_points=adaptive, thermal_points=4)
    former, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            generator = AutomaticMaskGenerator(sam, settings)
            decode, used = generator.decoder.decode, set[int]()

            def counted(*arguments: Any, decode: Any = decode, used: set[int] = used) -> DecodedPrompts:
                assert not torch.is_grad_enabled()
                used.add(threading.get_ident())
                time.sleep(0.01)  # so that no thread does it all
                return decode(*arguments)

            generator.decoder.decode = counted
            found.append(generator.generate(visible, infrared))
            assert (len(used) == 1) == (threads == 1)
    finally:
        torch.set_num_threads(former)
    assert len(found[0]) == len(found[1]) > 3
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.point == other.point and one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)


def test_one_thread_goes_on_where_memory_does_not_suffice_for_several(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    sam, image = build_vit_nano(64).eval(), scene(60, 90)
    settings = replace(OPEN, points_per_side=4, points_per_batch=2)
    expected = AutomaticMaskGenerator(sam, settings).label_map(image)
    generator, memory, former = AutomaticMaskGenerator(sam, settings), threading.Lock(), torch.get_num_threads()
    decode, failed = generator.decoder.decode, threading.Event()

    def decode_alone(*arguments: Any) -> DecodedPrompts:
        if not memory.acquire(blocking=False):
            failed.set()
            raise MemoryError
        try:
            assert failed.wait(60)
            return decode(*arguments)
        finally:
            memory.release()

    generator.decoder.decode = decode_alone  # type: ignore[method-assign]
    torch.set_num_threads(2)
    try:
        with caplog.at_level(logging.INFO):
            found = [generator.label_map(image) for _ in range(2)]
    finally:
        torch.set_num_threads(former)
    assert caplog.text.count("from now on points are decoded by one thread") == 1
    for again in found:
        np.testing.assert_array_equal(again, expected)
