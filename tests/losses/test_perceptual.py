from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.losses import FusionLoss, PerceptualLoss, load_perceptual_loss
from thfuse_sam.models import build_network


@pytest.fixture(scope="module")
def loss() -> PerceptualLoss:
    torch.manual_seed(0)
    return PerceptualLoss(layers=(3, 8))


@pytest.fixture
def sources() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ir, vi = torch.rand(2, 2, 1, 24, 24, generator=generator)
    return ir, vi


def test_nothing_is_missing_where_all_are_equal(loss: PerceptualLoss, sources: tuple[Tensor, Tensor]) -> None:
    ir, vi = sources
    assert loss(ir, ir, ir) == 0
    assert loss(vi, ir, ir) > 0.01


def test_the_stronger_feature_is_the_target(loss: PerceptualLoss, sources: tuple[Tensor, Tensor]) -> None:
    ir, vi = sources
    expected = []
    for fused, of_ir, of_vi in zip(*(loss.features(image) for image in (vi, ir, vi)), strict=True):
        target = torch.maximum(of_ir, of_vi)
        expected.append((fused - target).abs().mean() / target.mean())
    torch.testing.assert_close(loss(vi, ir, vi), sum(expected) / 2)


def test_the_gradient_reaches_the_network_and_not_vgg(loss: PerceptualLoss, sources: tuple[Tensor, Tensor]) -> None:
    network = build_network("thfuse_lite", width=8, growth=4, fine_width=6, dim=16, heads=2)
    parts = FusionLoss({"perceptual": 1.0}, loss)(network(*sources), *sources)
    parts["total"].backward()
    gradients = [parameter.grad for name, parameter in network.named_parameters() if "guidance" not in name]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in loss.parameters())


def test_a_step_against_the_gradient_lowers_it(loss: PerceptualLoss, sources: tuple[Tensor, Tensor]) -> None:
    fused = torch.full((2, 1, 24, 24), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([fused], lr=0.05)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss(fused, *sources)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


def test_it_stays_in_evaluation_mode(loss: PerceptualLoss) -> None:
    wrapped = nn.ModuleList([loss]).train()
    assert wrapped.training and not any(module.training for module in loss.modules())


@pytest.mark.parametrize("prefix", ["features.", ""])
def test_weights_come_from_a_file(prefix: str, tmp_path: Path, sources: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(3)
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    weights = {prefix + key: value for key, value in features.state_dict().items()}
    torch.save(weights | ({"classifier.0.bias": torch.zeros(2)} if prefix else {}), tmp_path / "vgg16.pth")
    loaded = load_perceptual_loss(tmp_path / "vgg16.pth")
    with torch.no_grad():
        expected = features[:23]((sources[0].expand(-1, 3, -1, -1) - loaded.mean) / loaded.std)
        assert torch.equal(loaded.features(sources[0])[-1], expected)


def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    with pytest.raises(CheckpointError, match=r"`vgg_weights` .*vgg\.pth: No such file"):
        load_perceptual_loss(path)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not weights"):
        load_perceptual_loss(path)
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not the weights of VGG-16"):
        load_perceptual_loss(path)
    with pytest.raises(UsageError, match="vgg16"):
        PerceptualLoss({"a": torch.zeros(1)})
