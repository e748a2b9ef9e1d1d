import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.errors import ImageSizeError
from thfuse_sam.fusion.tiles import fuse_tiled, tiles
from thfuse_sam.models import FusionNetwork, TiledNetwork, build_network

SMALL = {"width": 8, "growth": 4, "fine_width": 6, "dim": 16, "heads": 2}


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    """Weights large enough for the masks, the attention and the residual to show."""
    torch.manual_seed(0)
    network = build_network("thfuse_lite", **SMALL, contrast_gain=1.5, sky=1.0, selection=1.0).eval()
    for parameter in [*network.guidance.parameters(), *network.maps.parameters()]:
        nn.init.normal_(parameter, std=0.7)
    for parameter in [*network.base.parameters(), *network.details.parameters()]:
        nn.init.normal_(parameter, std=0.1)
    return network


def inputs(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(1, 6, height, width, generator=generator)
    values[:, 2:] = (values[:, 2:] > 0.5).float() + 0.25
    values[..., width // 2 :] *= 0.3  # a left half and a right half that attention can tell apart
    labels = torch.zeros(1, height, width, dtype=torch.int64)
    for number, left in enumerate(range(4, width - 8, 60)):  # some of them lie in two tiles
        labels[:, 4:12, left : left + 8] = number + 1
        values[:, :1, 4:12, left : left + 8] = 0.9
    return [*values.split([1, 1, 2, 2], dim=1), labels]


@pytest.mark.parametrize("size", [(250, 333), (64, 400), (16, 24)])
def test_tiles_give_the_whole_images_result(network: FusionNetwork, size: tuple[int, int]) -> None:
    given = inputs(*size)
    with torch.no_grad():
        whole = network(*given)
    assert isinstance(network, TiledNetwork)
    tiled = fuse_tiled(network, *given, tile_size=96)
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-6)


def test_tiles_without_masks_or_with_those_of_one_modality(network: FusionNetwork) -> None:
    ir, vi, _, vi_guidance, _ = inputs(150, 200)
    assert isinstance(network, TiledNetwork)
    with torch.no_grad():
        for masks in ((None, None), (None, vi_guidance)):
            tiled = fuse_tiled(network, ir, vi, *masks, tile_size=64)
            torch.testing.assert_close(tiled, network(ir, vi, *masks), rtol=0, atol=2e-6)


def test_running_each_tile_alone_would_differ(network: FusionNetwork) -> None:
    """The test above can fail: attention of a tile is not that of the image."""
    given = inputs(250, 333)
    with torch.no_grad():
        corner = network(*(value[..., :160, :160] for value in given))[..., :96, :96]
        whole = network(*given)[..., :96, :96]
    assert (corner - whole).abs().max() > 1e-3


def test_the_margin_is_as_far_as_a_pixel_can_be_seen(network: FusionNetwork) -> None:
    """With the maps held, an input pixel reaches less far than the margin, in both passes."""
    assert isinstance(network, TiledNetwork)
    ir, vi, *guidance, _ = inputs(320, 320)
    joined = torch.cat(guidance, dim=1)
    with torch.no_grad():
        maps = network.attention_maps(network.coarse_features(ir, vi))
        before = network.fuse_with_maps(ir, vi, joined, maps), network.coarse_features(ir, vi)
        for image in (ir, vi, joined):
            image[..., 156:164, 156:164] += 1
        changed_maps = maps.clone()
        changed_maps[:, 19:21, 19:21] += 1
        after = network.fuse_with_maps(ir, vi, joined, changed_maps), network.coarse_features(ir, vi)
    rows, columns = torch.where((after[0] - before[0])[0, 0] != 0)
    far = max(160 - int(rows.min()), int(rows.max()) - 159, 160 - int(columns.min()), int(columns.max()) - 159)
    assert 20 < far <= network.tile_margin
    rows, _ = torch.where((after[1] - before[1])[0].abs().sum(-1) != 0)
    assert 8 * max(20 - int(rows.min()), int(rows.max()) - 19) <= network.tile_margin


def test_no_layer_sees_more_than_a_tile_with_its_margin(network: FusionNetwork) -> None:
    seen: list[int] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].shape[-1] * arguments[0].shape[-2])

    hooks = [part.register_forward_pre_hook(watch) for part in (network.stem, network.merge, network.guidance)]
    assert isinstance(network, TiledNetwork)
    fuse_tiled(network, *inputs(400, 700), tile_size=64)
    for hook in hooks:
        hook.remove()
    assert max(seen) == (64 + 2 * 64) ** 2


def test_tiles_cover_an_image_once() -> None:
    covered = torch.zeros(70, 45, dtype=torch.int64)
    for tile in tiles(70, 45, 32, 8):
        covered[tile.inner] += 1
        assert torch.zeros(70, 45)[tile.outer][tile.inner_in_outer].shape == covered[tile.inner].shape
    assert (covered == 1).all()


def test_too_small_images_are_refused(network: FusionNetwork) -> None:
    assert isinstance(network, TiledNetwork)
    with pytest.raises(ImageSizeError, match="40x15"):
        fuse_tiled(network, *inputs(15, 40))
