"""Prompted predictions against segment_anything's own predictor, and the frames of targets and mask prompts."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch.nn import functional as F

from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.prompted import (
    PromptTensors,
    best_mask,
    decode,
    encode,
    low_resolution_targets,
    mask_prompts,
    predict,
)
from thfuse_sam.sam.tiny_vit import build_vit_t

SHAPES = [(48, 80), (100, 37), (64, 64), (200, 150)]


def random_sam(kind: str) -> Sam:
    torch.manual_seed(1)
    return (build_vit_nano(64) if kind == "vit_nano" else build_vit_t(64)).eval()


def picture(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["vit_nano", "vit_t"])
@pytest.mark.parametrize("shape", SHAPES)
def test_predictions_equal_those_of_sam_predictor(kind: str, shape: tuple[int, int]) -> None:
    sam, image = random_sam(kind), picture(shape)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    frame = Frame.of(shape, 64)
    with torch.no_grad():
        embedding = encode(sam, [resize_image(image, frame)])[0]
    assert torch.equal(embedding[None], predictor.get_image_embedding())
    points = np.array([[5.0, 7.0], [20.5, 30.25]])
    box = np.array([3.0, 4.0, 30.0, 36.0])
    earlier = np.random.default_rng(1).normal(size=(1, frame.logits_side, frame.logits_side)).astype(np.float32)
    cases = [
        ({"point_coords": points[:1], "point_labels": np.array([1])}, True),
        ({"point_coords": points, "point_labels": np.array([1, 0])}, False),
        ({"box": box}, False),
        ({"point_coords": points, "point_labels": np.array([1, 0]), "box": box, "mask_input": earlier}, False),
    ]
    for arguments, several in cases:
        _, scores, logits = predictor.predict(**arguments, multimask_output=several, return_logits=True)
        masks, *_ = predictor.predict(**arguments, multimask_output=several)
        has_points = "point_coords" in arguments
        prompts = PromptTensors(
            torch.from_numpy(frame.coordinates(arguments["point_coords"][None])) if has_points else None,
            torch.from_numpy(arguments["point_labels"][None].astype(np.int32)) if has_points else None,
            torch.from_numpy(frame.coordinates(box[None])) if "box" in arguments else None,
            torch.from_numpy(earlier[None]) if "mask_input" in arguments else None,
        )
        with torch.no_grad():
            own_logits, own_scores = decode(sam, embedding, prompts, multimask=several)
        assert np.array_equal(own_logits[0].numpy(), logits)
        assert np.array_equal(own_scores[0].numpy(), scores)
        own_masks, own_best = predict(sam, embedding, frame, prompts)
        best = int(scores.argmax())
        assert np.array_equal(own_masks[0], masks[best]) and own_best[0] == scores[best]


def test_prompts_of_several_objects_are_independent() -> None:
    sam = random_sam("vit_nano")
    frame = Frame.of((64, 64), 64)
    with torch.no_grad():
        embedding = encode(sam, [resize_image(picture((64, 64)), frame)])[0]
        boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [10.0, 12.0, 60.0, 50.0]])
        together, _ = decode(sam, embedding, PromptTensors(boxes=boxes), multimask=False)
        alone, _ = decode(sam, embedding, PromptTensors(boxes=boxes[1:]), multimask=False)
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_best_mask_is_the_one_that_the_model_rates_best() -> None:
    logits = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2)
    chosen, scores = best_mask(logits, torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]]))
    assert torch.equal(chosen, torch.stack([logits[0, 1], logits[1, 0]]))
    assert scores.tolist() == pytest.approx([0.9, 0.5])


@pytest.mark.parametrize("shape", SHAPES)
def test_targets_lie_where_the_enlarged_logits_do(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 3 :] = True
    frame = Frame.of(shape, 256)
    targets, valid = low_resolution_targets(mask[None], frame)
    logits = targets * 2 - 1
    large = F.interpolate(logits[:, None], (256, 256), mode="bilinear", align_corners=False)
    large = large[..., : frame.input_size[0], : frame.input_size[1]]
    back = F.interpolate(large, shape, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
    assert (back != mask).mean() < 0.03
    assert float(targets.min()) >= 0 and float(targets.max()) <= 1
    rows, columns = (-(-side // 4) for side in frame.input_size)
    assert bool(valid[: rows - 1, : columns - 1].all()) and not bool(valid[rows:].any())
    assert not bool(targets[0][valid == 0].sum() > targets[0].sum() * 0.1)


def test_a_logit_at_the_padding_counts_the_pixels_of_the_image() -> None:
    targets, valid = low_resolution_targets(np.ones((1, 50, 64), bool), Frame.of((50, 64), 64))
    assert targets[0, 12].tolist() == pytest.approx([1.0] * 16)  # two of its four rows are padding
    assert valid[12].tolist() == [1.0] * 16 and valid[13].tolist() == [0.0] * 16


def test_ignored_pixels_are_neither_inside_nor_outside() -> None:
    mask, ignored = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    mask[:, :30], ignored[:, 30:40] = True, True
    targets, valid = low_resolution_targets(mask[None], Frame.of((64, 64), 64), ignored)
    assert valid[5].tolist() == [1.0] * 8 + [0.0] * 2 + [1.0] * 6
    assert targets[0, 5].tolist() == pytest.approx([1.0] * 7 + [1.0] + [0.0] * 8), "of two columns inside, two ignored"


def test_mask_prompts_keep_logits_and_pad_with_outside() -> None:
    logits = np.full((2, 32, 64), -8, np.float32)
    logits[0, :16] = 8
    prompts = mask_prompts(logits, Frame.of((32, 64), 64))
    assert prompts.shape == (2, 1, 16, 16)
    assert float(prompts[0, 0, 1, 5]) == 8 and float(prompts[0, 0, 6, 5]) == -8
    assert bool((prompts[:, :, 8:] == -8).all())


def test_frame_of_a_very_narrow_image() -> None:
    frame = Frame.of((1, 5000), 64)
    assert frame.input_size == (1, 64)
    assert resize_image(picture((1, 5000)), frame).shape == (3, 1, 64)
