"""A few steps on small images."""

import pytest
import torch

from thfuse_sam.sam.nano import build_vit_nano
from tools.vit_nano.options import NanoTrainingConfig
from tools.vit_nano.training import train_nano

SIZE = 64


@pytest.mark.parametrize(("bf16", "crop_height"), [(False, 0), (True, 0), (True, 16)])
def test_a_short_training_saves_a_changed_model(bf16: bool, crop_height: int) -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(SIZE)
    before = sam.mask_decoder.iou_token.weight.clone()
    saved = []
    config = NanoTrainingConfig(
        minutes=0.01,
        batch_size=1,
        prompts=4,
        crop_size=32,
        crop_height=crop_height,
        shares=(1, 0, 0),
        workers=0,
        bf16=bf16,
    )
    train_nano(sam, [], [], config, lambda model: saved.append(model))
    assert saved == [sam]
    assert not torch.equal(before, sam.mask_decoder.iou_token.weight)
