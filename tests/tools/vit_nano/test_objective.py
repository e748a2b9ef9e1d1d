"""Decoding crops with all prompts at once."""

import torch

from thfuse_sam.sam.geometry import PATCH_SIZE
from thfuse_sam.sam.nano import EMBED_DIM, build_vit_nano
from tools.vit_nano.objective import decode_crops

NO_BOXES = torch.empty(1, 0, 4)


def test_a_crop_is_decoded_as_its_place_in_the_whole_image() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(128).eval()
    embedding = torch.randn(1, EMBED_DIM, 8, 8)
    points = torch.tensor([[[70.0, 90.0]]])
    origin, corner = torch.tensor([[0, 0]]), torch.tensor([[4, 4]])
    with torch.no_grad():
        whole, _ = decode_crops(sam, embedding, origin, points, NO_BOXES)
        crop, _ = decode_crops(sam, embedding[..., 4:, 4:], corner, points - 64, NO_BOXES)
        wrong, _ = decode_crops(sam, embedding[..., 4:, 4:], origin, points - 64, NO_BOXES)
    far = (wrong - whole[..., 16:, 16:]).abs().mean()
    assert (crop - whole[..., 16:, 16:]).abs().mean() < far


def test_prompts_of_several_images_equal_segment_anythings_decoder() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(128)
    embeddings = torch.randn(2, EMBED_DIM, 3, 4, requires_grad=True)
    points, boxes = torch.rand(2, 3, 2) * 48, torch.rand(2, 2, 4) * 48
    corners = torch.tensor([[0, 1], [3, 2]])
    masks, ious = decode_crops(sam, embeddings, corners, points, boxes)
    stock = []
    for index, (y, x) in enumerate(corners.tolist()):
        shift = torch.tensor([x, y]) * PATCH_SIZE
        by_point, _ = sam.prompt_encoder((points[index, :, None] + shift, torch.ones(3, 1)), None, None)
        by_box, _ = sam.prompt_encoder(None, boxes[index] + shift.repeat(2), None)
        stock.append(
            sam.mask_decoder.predict_masks(
                embeddings[index, None],
                sam.prompt_encoder.get_dense_pe()[..., y : y + 3, x : x + 4],
                torch.cat([by_point, by_box]),
                sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            )
        )
    stock_masks, stock_ious = map(torch.stack, zip(*stock, strict=True))
    torch.testing.assert_close(masks, stock_masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ious, stock_ious, rtol=1e-4, atol=1e-5)

    weights = [embeddings, sam.mask_decoder.mask_tokens.weight, sam.mask_decoder.output_upscaling[0].weight]
    shares = torch.randn_like(masks)
    gradients = torch.autograd.grad((masks * shares).sum(), weights)
    for gradient, expected in zip(gradients, torch.autograd.grad((stock_masks * shares).sum(), weights), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
