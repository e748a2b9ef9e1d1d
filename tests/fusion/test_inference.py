import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.datasets.fusion import FusionSample
from thfuse_sam.devices import DTYPES
from thfuse_sam.errors import ImageSizeError
from thfuse_sam.fusion import inference
from thfuse_sam.fusion.inference import fuse_lumas, plan_batches
from thfuse_sam.models import FusionNetwork, build_network
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.options.shared import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    torch.manual_seed(0)
    network = build_network("thfuse_lite", width=8, growth=4, fine_width=6, dim=16, heads=2).eval()
    for parameter in [*network.base.parameters(), *network.details.parameters()]:
        nn.init.normal_(parameter, std=0.1)
    return network


def sample(name: str, seed: int, size: tuple[int, int] = (40, 56)) -> FusionSample:
    values = torch.rand(8, *size, generator=torch.Generator().manual_seed(seed))
    labels = torch.zeros(size, dtype=torch.int64)
    return FusionSample(
        ir=values[:1],
        vi=values[1:2],
        vi_rgb=values[2:5],
        ir_guidance=(values[2:4] > 0.5).float(),
        vi_guidance=torch.full((2, *size), 0.5),
        ir_labels=labels,
        vi_labels=labels,
        has_ir_mask=True,
        has_vi_mask=False,
        name=name,
    )


def test_batches_hold_images_of_one_size_in_order() -> None:
    sizes = [(4, 6), (4, 6), (6, 4), (4, 6), (6, 4), (8, 8)]
    assert plan_batches(sizes, 2) == [[0, 1], [2, 4], [3], [5]]
    assert plan_batches(sizes, 1) == [[0], [1], [2], [3], [4], [5]]
    assert plan_batches([], 2) == []


def test_a_batch_gives_what_single_pairs_give(network: FusionNetwork) -> None:
    samples = [sample("a", 0), sample("b", 1), sample("c", 2)]
    together = fuse_lumas(network, samples, CPU)
    for one, image in zip(samples, together, strict=True):
        (alone,) = fuse_lumas(network, [one], CPU)
        assert image.shape == (40, 56) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - alone).max() <= 1  # rounding


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_within_two_grey_levels(network: FusionNetwork, precision: Precision) -> None:
    seen = []
    hook = network.stem.conv.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    (single,) = fuse_lumas(network, [sample("a", 0)], CPU)
    (half,) = fuse_lumas(network, [sample("a", 0)], CPU, InferenceSettings(precision=precision))
    hook.remove()
    assert seen == [torch.float32, DTYPES[precision]]
    difference = np.abs(half.astype(int) - single)
    assert difference.max() <= 2 and difference.mean() < 0.5


def test_images_of_more_than_four_tiles_are_tiled(network: FusionNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    original = inference.fuse_tiled
    monkeypatch.setattr(inference, "fuse_tiled", lambda *a, **options: used.append(options) or original(*a, **options))
    samples = [sample("a", 0, (80, 96)), sample("b", 1, (80, 96))]
    whole = fuse_lumas(network, samples, CPU, InferenceSettings(tile_size=48))
    assert not used
    tiled = fuse_lumas(network, samples, CPU, InferenceSettings(tile_size=40))
    assert len(used) == 2
    for one, other in zip(whole, tiled, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_too_small_pairs_are_named(network: FusionNetwork) -> None:
    with pytest.raises(ImageSizeError, match="pair 'tiny': image of 8x40"):
        fuse_lumas(network, [sample("tiny", 0, (40, 8))], CPU)


class OutOfMemory(nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError


def test_a_full_gpu_is_one_line() -> None:
    with pytest.raises(ImageSizeError, match=r"pair 'a': 1 of 56x40 pixels.*`tile_size`"):
        fuse_lumas(OutOfMemory(), [sample("a", 0)], CPU)
