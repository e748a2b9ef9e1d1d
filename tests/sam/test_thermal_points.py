"""Warm places of infrared images, and what the mask generator makes of them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.sam.test_generator import oracle_sam
from thfuse_sam.images import write_image
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.precompute.jobs import JobSettings, list_jobs
from thfuse_sam.precompute.worker import make_masks
from thfuse_sam.sam.candidates import Candidates, PackedMask
from thfuse_sam.sam.decoder import PointDecoder, ReferenceDecoder
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.thermal_points import _MOST_BOXES, _component_boxes, ratings, warm_boxes, without_parts

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
HOUSE, WINDOW, PERSON = (60, 20, 180, 150), (90, 50, 114, 78), (250, 100, 270, 150)


def night(*, noise: float = 4.0) -> npt.NDArray[np.uint8]:
    """A shaded, noisy infrared image 240x320 of a warm house with a warmer window, and a person."""
    x = np.broadcast_to(np.linspace(20, 70, 320), (240, 320)).copy()
    for (x0, y0, x1, y1), level in ((HOUSE, 110), (WINDOW, 190), (PERSON, 150)):
        x[y0:y1, x0:x1] = level
    x = cv2.GaussianBlur(x, (0, 0), 1.0) + np.random.default_rng(0).normal(0, noise, x.shape)
    return x.clip(0, 255).astype(np.uint8)


def overlap(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    a, b = np.asarray(one, float), np.asarray(other, float)
    common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_warm_things_come_first(scale: int) -> None:
    image = cv2.resize(night(), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    boxes = warm_boxes(image.astype(np.uint8), 8)
    for thing in (WINDOW, PERSON):  # the house is larger than what is looked for
        assert max(overlap(box, np.multiply(thing, scale)) for box in boxes[:4]) > 0.75


def test_boxes_are_few_distinct_and_inside_the_image() -> None:
    boxes = warm_boxes(night(noise=12.0), 20)
    assert len(boxes) == 20
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [320, 240]).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert max(overlap(boxes[i], boxes[j]) for i in range(20) for j in range(i)) <= 0.6
    np.testing.assert_array_equal(warm_boxes(night(noise=12.0), 5), boxes[:5])


def test_a_warm_head_above_warm_legs_is_one_thing_as_well() -> None:
    image, legs = night(), (250, 130, 270, 150)
    image[112:130, 250:270] = image[112:130, 280:300]  # a cold coat
    boxes = warm_boxes(image, 16)
    for thing in (PERSON, legs):
        assert max(overlap(box, thing) for box in boxes) > 0.7


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (5, 3), (64, 64)])
def test_images_without_anything_warm(shape: tuple[int, int]) -> None:
    assert warm_boxes(np.full(shape, 90, np.uint8), 8).shape == (0, 4)


SETTINGS = GeneratorSettings(points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.5)


def by_day() -> npt.NDArray[np.uint8]:
    """The visible image of the same scene, each thing in another colour."""
    image = np.full((240, 320, 3), 60, np.uint8)
    for (x0, y0, x1, y1), colour in ((HOUSE, (200, 80, 60)), (WINDOW, (60, 90, 220)), (PERSON, (70, 210, 80))):
        image[y0:y1, x0:x1] = colour
    return image


def is_found(label_map: npt.NDArray[np.integer], box: Box) -> bool:
    """Whether one segment of the label map has this box."""
    y, x = np.mgrid[: label_map.shape[0], : label_map.shape[1]]
    segments = [label_map == label for label in np.unique(label_map[label_map > 0])]
    return any(overlap((x[own].min(), y[own].min(), x[own].max() + 1, y[own].max() + 1), box) > 0.5 for own in segments)


def test_small_warm_things_are_found_also_inside_large_ones() -> None:
    infrared, sam = night(), oracle_sam()
    plain = AutomaticMaskGenerator(sam, SETTINGS).label_map(by_day(), infrared)
    assert is_found(plain, HOUSE) and not is_found(plain, WINDOW) and not is_found(plain, PERSON)
    warm = AutomaticMaskGenerator(sam, replace(SETTINGS, thermal_points=8)).label_map(by_day(), infrared)
    assert is_found(warm, HOUSE) and is_found(warm, WINDOW) and is_found(warm, PERSON)


def test_without_a_fitting_infrared_image_the_grid_is_all() -> None:
    infrared, sam = night(), oracle_sam()
    image = by_day()
    plain = AutomaticMaskGenerator(sam, SETTINGS).label_map(image)
    warm = AutomaticMaskGenerator(sam, replace(SETTINGS, thermal_points=8))
    for other in (None, infrared[:, :-1], np.full_like(infrared, 7)):
        np.testing.assert_array_equal(warm.label_map(image, other), plain)
    assert not np.array_equal(warm.label_map(image, infrared), plain)
    np.testing.assert_array_equal(warm.label_map_from(warm.encode(image), infrared), warm.label_map(image, infrared))


def test_masks_fit_the_place_that_they_were_prompted_with() -> None:
    settings = replace(SETTINGS, thermal_points=20)
    instances = AutomaticMaskGenerator(oracle_sam(), settings).generate(by_day(), night(noise=12.0))
    boxes = warm_boxes(night(noise=12.0), 20)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    of_places = [instance for instance in instances if (centres == instance.point).all(1).any()]
    assert 2 <= len(of_places) < len(instances)
    for instance in of_places:
        x, y, width, height = instance.bbox
        own = boxes[(centres == instance.point).all(1)]
        assert max(overlap((x, y, x + width + 1, y + height + 1), box) for box in own) >= 0.4


def candidates(*things: tuple[Box, float], prompted: bool = True) -> Candidates:
    """Masks that fill boxes, with their predicted IoUs; the first is that of a warm place or of a point."""
    masks = np.zeros((len(things), 120, 160), bool)
    for mask, ((x0, y0, x1, y1), _) in zip(masks, things, strict=True):
        mask[y0:y1, x0:x1] = True
    boxes = torch.tensor([box for box, _ in things]) - torch.tensor([0, 0, 1, 1])
    prompts = torch.zeros(len(things), 4, dtype=torch.float64)
    prompts[0, 2:] = 9.0 * prompted
    packed = [PackedMask.pack(mask, box.tolist()) for mask, box in zip(masks, boxes, strict=True)]
    ious = torch.tensor([iou for _, iou in things])
    return Candidates(packed, boxes, ious, ious, prompts, ious > 2, torch.full((len(things),), 19200))


WHOLE, HEAD, LEGS, BELT = (10, 10, 22, 50), (10, 10, 22, 30), (10, 28, 22, 50), (12, 28, 20, 31)


@pytest.mark.parametrize(
    ("legs", "prompted", "kept"),
    [
        (0.5, True, [WHOLE]),
        (0.7, True, [WHOLE, HEAD, LEGS]),  # better than the whole, which stands upright
        (0.5, False, [WHOLE, HEAD, LEGS]),  # without warm places all is as it was
    ],
)
def test_parts_that_would_hide_a_better_mask_go(legs: float, prompted: bool, kept: list[Box]) -> None:
    found = candidates((WHOLE, 0.6), (HEAD, 0.55), (LEGS, legs), prompted=prompted)
    assert (without_parts(found, (120, 160)).boxes + torch.tensor([0, 0, 1, 1])).tolist() == [list(box) for box in kept]


def test_people_are_ranked_above_their_parts_and_groups() -> None:
    group, lying, pole = (10, 10, 44, 50), (10, 10, 50, 22), (10, 10, 14, 50)
    boxes = [(box, 0.6) for box in (WHOLE, HEAD, group, lying, pole)]
    _, person, head, *others = ratings(candidates(((80, 80, 90, 90), 0.6), *boxes))
    assert person > head > max(others)
    no_warm_places = candidates(*boxes, prompted=False)
    assert torch.equal(ratings(no_warm_places), no_warm_places.predicted_ious)


def test_noise_has_no_more_boxes_than_can_be_compared() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (480, 600), dtype=np.uint8), (0, 0), 1.2)
    boxes = _component_boxes(noise)
    assert len(boxes) == _MOST_BOXES


def test_of_two_masks_the_one_with_the_border_of_the_warm_place_is_ranked_first() -> None:
    found = candidates((WHOLE, 0.6), ((8, 8, 24, 54), 0.65))
    found.prompts[:] = torch.tensor(WHOLE)
    assert ratings(found).argmax() == 0


def test_small_things_inside_and_large_masks_stay() -> None:
    small = candidates((WHOLE, 0.6), (BELT, 0.3))
    assert len(without_parts(small, (120, 160)).masks) == 2
    large = candidates(((0, 0, 40, 60), 0.6), ((0, 0, 40, 40), 0.3))
    assert len(without_parts(large, (120, 160)).masks) == 2


def test_live_and_precomputed_masks_are_equal_byte_for_byte(tmp_path: Path) -> None:
    paths = {"ir": tmp_path / "ir" / "a.png", "vi": tmp_path / "vi" / "a.png"}
    write_image(paths["ir"], night())
    write_image(paths["vi"], by_day())
    generator = AutomaticMaskGenerator(oracle_sam(), replace(SETTINGS, thermal_points=8))
    infrared = {"a": paths["ir"]}
    live = LiveMasks(generator.label_map)
    for options in (JobSettings(), JobSettings(save_embeddings=True)):
        jobs = list_jobs({"ir": infrared, "vi": {"a": paths["vi"]}}, infrared)
        for result in make_masks(jobs, generator, options, num_workers=0):
            made = result.finish().label_map
            job = result.job
            mask = live.get(job.modality, job.name, job.image, (240, 320), night())
            assert made is not None and made.max() >= 3 and made.tobytes() == mask.tobytes()
        without = next(make_masks(list_jobs({"vi": {"a": paths["vi"]}}), generator, options, num_workers=0)).finish()
        assert without.label_map is not None and without.label_map.tobytes() != made.tobytes()


def test_boxes_are_decoded_as_segment_anything_does() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(64).eval()
    features = torch.randn(1, 128, 4, 4)
    boxes = torch.tensor([[3.0, 5.0, 20.0, 31.0], [0.0, 0.0, 64.0, 48.0]])
    with torch.no_grad():
        ours, stock = (
            decoder.decode(decoder.prepare(features, (64, 64)), boxes)
            for decoder in (PointDecoder(sam), ReferenceDecoder(sam))
        )
        torch.testing.assert_close(ours.predicted_ious, stock.predicted_ious, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.logits(torch.arange(2)), stock.logits(torch.arange(2)), rtol=1e-4, atol=1e-4)
