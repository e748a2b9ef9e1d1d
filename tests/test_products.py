"""Matrix products by oneDNN."""

from collections.abc import Iterator

import pytest
import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn

from thfuse_sam import products
from thfuse_sam.products import apply_linear, apply_mlp, baddbmm_, bmm, linear

ONEDNN = pytest.mark.skipif(not products._HAS_ONEDNN, reason="PyTorch was built without oneDNN")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("bias", [None, random(7)])
@torch.no_grad()
def test_linear_equals_pytorchs(shape: tuple[int, ...], bias: Tensor | None) -> None:
    x, weight = random(*shape), random(7, 3)
    torch.testing.assert_close(linear(x, weight, bias), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("count", [0, 1, 3])
@torch.no_grad()
def test_batches_of_products_equal_pytorchs(count: int) -> None:
    """Also of transposed matrices."""
    a, b, x = random(count, 4, 5), random(count, 6, 5).mT, random(count, 4, 6)
    torch.testing.assert_close(bmm(a, b), torch.bmm(a, b))
    expected = torch.baddbmm(x, a, b)
    assert baddbmm_(x, a, b) is x
    torch.testing.assert_close(x, expected)


@ONEDNN
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_one_thread_and_two_sum_alike() -> None:
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append((bmm(random(1, 56, 4096), random(1, 4096, 128)), linear(random(4096, 128), random(56, 128))))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_gelu_on_the_way_equals_pytorchs(dtype: torch.dtype) -> None:
    x, weight, bias = (random(*shape).to(dtype) for shape in ((50, 64), (9, 64), (9,)))
    expected = nn.functional.gelu(nn.functional.linear(*(one.float() for one in (x, weight, bias))))
    # Where oneDNN is not used, what GELU gets is rounded, too.
    rtol, atol = {torch.float32: (1.3e-6, 1e-5), torch.bfloat16: (0.016, 1e-3)}[dtype]
    torch.testing.assert_close(linear(x, weight, bias, gelu=True), expected.to(dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@torch.no_grad()
def test_two_layers_equal_pytorchs(activation: type[nn.Module]) -> None:
    mlp = MLPBlock(3, 5, activation)
    torch.testing.assert_close(apply_mlp(mlp, random(4, 3)), mlp(random(4, 3)))


@ONEDNN
def test_onednn_is_for_plain_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(products.F, "linear", lambda *arguments: asked.append(arguments) or arguments[0])
    x, weight = random(4, 3), random(7, 3)
    with torch.no_grad():
        linear(x, weight)
        assert not asked
        linear(x.half(), weight.half())
        with torch.autocast("cpu", torch.bfloat16):
            linear(x, weight)
    linear(x, weight)
    assert len(asked) == 3


@torch.no_grad()
def test_an_adapter_is_run_as_it_is() -> None:
    class Adapter(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    layer = Adapter(3, 7)
    assert torch.equal(apply_linear(layer, random(4, 3)), layer(random(4, 3)))
