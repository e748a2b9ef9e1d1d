"""What every fusion network must do. Adding a network adds one subclass of `NetworkTests`."""

import json
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from thfuse_sam.errors import CheckpointError, ImageSizeError, UsageError
from thfuse_sam.losses import FusionLoss
from thfuse_sam.models import NETWORKS, FusionNetwork, build_network, count_parameters, thfuse_from_original
from thfuse_sam.models.thfuse_lite import DetailMix, LiteConv, LiteDenseBranch, weights_of_features
from thfuse_sam.models.thfuse_original import ORIGINAL_NAMES, ORIGINAL_PIXEL_RANGE

CONSTANTS = [0.5, 0.0, 1.0, 0.3]


def images(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ir, vi = torch.rand(2, batch, 1, height, width, generator=generator)
    return ir, vi


def real_guidance(batch: int, height: int, width: int) -> Tensor:
    """Union and edges of one rectangle per image."""
    guidance = torch.zeros(batch, 2, height, width)
    guidance[:, 0, height // 4 : -height // 4, width // 4 : -width // 4] = 1
    guidance[:, 1, height // 4, width // 4 : -width // 4] = 1
    guidance[:, 1, height // 4 : -height // 4, width // 4] = 1
    return guidance


class NetworkTests:
    """Base of the tests of one network; `name` and `options` name a small instance."""

    name: str
    options: ClassVar[dict[str, int | float]]

    def build(self) -> FusionNetwork:
        torch.manual_seed(0)
        network = build_network(self.name, **self.options)
        for parameter in network.guidance.parameters():
            # Gates that are far from neutral: a leak of a constant mask cannot hide in rounding.
            nn.init.normal_(parameter, std=1.0)
        return network.eval()

    @pytest.mark.parametrize("size", [(16, 16), (16, 45), (33, 17), (40, 24)])
    def test_takes_any_size_and_stays_in_range(self, size: tuple[int, int]) -> None:
        ir, vi = images(2, *size)
        with torch.inference_mode():
            fused = self.build()(ir, vi, real_guidance(2, *size), real_guidance(2, *size))
        assert fused.shape == (2, 1, *size)
        assert fused.dtype == torch.float32
        assert fused.min() >= 0
        assert fused.max() <= 1

    @pytest.mark.parametrize("size", [(32, 32), (19, 37)])
    @pytest.mark.parametrize("training", [False, True])
    def test_constant_masks_are_no_guidance_bit_for_bit(self, size: tuple[int, int], training: bool) -> None:
        network = self.build().train(training)
        ir, vi = images(1, *size)
        with torch.no_grad():
            expected = network(ir, vi)
            for value in CONSTANTS:
                constant = torch.full((1, 2, *size), value)
                assert torch.equal(network(ir, vi, constant, constant), expected), value
            two_levels = torch.tensor([0.3, 0.7]).reshape(1, 2, 1, 1).expand(1, 2, *size)
            assert torch.equal(network(ir, vi, two_levels, None), expected)
            assert torch.equal(network(ir, vi, None, two_levels), expected)

    def test_real_masks_of_either_modality_change_the_result(self) -> None:
        network = self.build()
        ir, vi = images(1, 32, 32)
        mask = real_guidance(1, 32, 32)
        with torch.no_grad():
            unguided, by_ir, by_vi = network(ir, vi), network(ir, vi, mask, None), network(ir, vi, None, mask)
        assert not torch.equal(unguided, by_ir)
        assert not torch.equal(unguided, by_vi)
        assert not torch.equal(by_ir, by_vi)

    @pytest.mark.parametrize("size", [(32, 32), (19, 37)])
    def test_a_placeholder_beside_a_real_mask_stays_neutral(self, size: tuple[int, int]) -> None:
        network = self.build()
        ir, vi = images(2, *size)
        mixed = real_guidance(2, *size)
        mixed[0] = 0.5
        with torch.no_grad():
            unguided, fused = network(ir, vi), network(ir, vi, mixed, mixed)
        assert torch.equal(fused[0], unguided[0])
        assert not torch.equal(fused[1], unguided[1])

    def test_labels_count_in_the_last_stage_only(self) -> None:
        ir, vi = images(2, 48, 48)
        labels = torch.zeros(2, 48, 48, dtype=torch.int64)
        labels[0, 20:25, 20:25] = 1
        ir[0, :, 20:25, 20:25] += 1
        network, without = build_network(self.name, **self.options, contrast_gain=1.5).eval(), self.build()
        network.load_state_dict(without.state_dict())
        with torch.no_grad():
            expected = without(ir / 2, vi / 2)
            assert torch.equal(without(ir / 2, vi / 2, ir_labels=labels), expected)
            fused = network(ir / 2, vi / 2, ir_labels=labels)
            assert torch.equal(fused[1], expected[1]) and not torch.equal(fused[0], expected[0])
            assert torch.equal(network(ir / 2, vi / 2, ir_labels=torch.zeros_like(labels)), expected)
            assert torch.equal(network.train()(ir / 2, vi / 2, ir_labels=labels), without.train()(ir / 2, vi / 2))

    def test_every_parameter_learns_from_the_first_step(self) -> None:
        torch.manual_seed(0)
        network = build_network(self.name, **self.options)
        ir, vi = images(2, 32, 32)
        mask = real_guidance(2, 32, 32)
        fused = network(ir, vi, mask, mask)
        ((fused - torch.maximum(ir, vi)) ** 2).mean().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            if key.startswith("guidance."):
                assert parameter.grad.abs().max() > 0, key

    def test_options_and_weights_rebuild_the_network(self) -> None:
        network = self.build()
        options = json.loads(json.dumps(network.options))
        assert self.options.items() <= options.items()
        again = build_network(network.name, **options).eval()
        again.load_state_dict(network.state_dict())
        ir, vi = images(1, 32, 32)
        with torch.no_grad():
            assert torch.equal(network(ir, vi), again(ir, vi))

    def test_images_of_a_batch_do_not_influence_each_other(self) -> None:
        network = self.build()
        ir, vi = images(2, 32, 32)
        with torch.no_grad():
            together, alone = network(ir, vi), network(ir[1:], vi[1:])
        torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_flat_images_give_finite_results_and_gradients(self, value: float) -> None:
        network = self.build()
        flat = torch.full((1, 1, 32, 32), value)
        fused = network(flat, flat)
        FusionLoss()(fused, flat, flat)["total"].backward()
        assert fused.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)

    def test_too_small_and_mismatched_inputs_are_refused(self) -> None:
        network = self.build()
        small, _ = images(1, 15, 40)
        ir, vi = images(1, 32, 32)
        with pytest.raises(ImageSizeError, match="40x15"):
            network(small, small)
        with pytest.raises(ValueError, match="must be equal"):
            network(ir, vi[..., :-1])
        with pytest.raises(ValueError, match="vi_guidance"):
            network(ir, vi, None, torch.zeros(1, 1, 32, 32))


class TestTHFuse(NetworkTests):
    name = "thfuse"
    options: ClassVar[dict[str, int | float]] = {
        "spatial_dim": 16,
        "spatial_depth": 1,
        "channel_dim": 16,
        "channel_depth": 1,
    }

    def build(self) -> FusionNetwork:
        network = super().build()
        # Mid grey, as trained weights give: an untrained result is black, where gates cannot show.
        nn.init.constant_(network.reconstruction.conv2d.bias, 0.5)
        return network

    def test_the_default_has_the_published_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for initialise in ("kaiming_uniform_", "uniform_", "normal_"):
            monkeypatch.setattr(nn.init, initialise, lambda tensor, *_, **__: tensor)
        with torch.device("meta"):
            network = build_network("thfuse")
        assert count_parameters(network) - count_parameters(network.guidance) == 137_390_247
        assert count_parameters(network.spatial_transformer) == 136_419_344

    def test_loads_a_state_dict_with_the_original_names(self) -> None:
        network = self.build()
        original = original_state_dict(network)
        for key in ("conv_in.conv2d.weight", "layers.DenseConv3.conv2d.bias", "en0.res.bn1.running_mean"):
            assert key in original
        assert original["strans3.en.blocks.0.attn.qkv.weight"].shape == (48, 16)
        assert original["ctrans3.depatch.projection.0.weight"].shape == (256, 16)

        loaded = thfuse_from_original(original)
        assert loaded.options["pixel_range"] == ORIGINAL_PIXEL_RANGE
        own = loaded.state_dict()
        for key, value in network.state_dict().items():
            if not key.startswith("guidance."):
                assert torch.equal(own[key], value), key

    def test_refuses_weights_of_something_else(self) -> None:
        original = original_state_dict(self.build())
        with pytest.raises(CheckpointError, match="not a state dict of the original"):
            thfuse_from_original({"some.weight": torch.zeros(1)})
        del original["conv_out.conv2d.bias"]
        with pytest.raises(CheckpointError, match=r"reconstruction\.conv2d\.bias"):
            thfuse_from_original(original)

    def test_the_pixel_range_scales_what_goes_in_and_what_comes_out(self) -> None:
        ir, vi = images(1, 32, 32)
        network = build_network(self.name, **{**self.options, "pixel_range": 255.0}).eval()
        inputs, outputs = [], []
        network.mix.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        network.reconstruction.register_forward_hook(lambda _, arguments, output: outputs.append(output.clone()))
        with torch.no_grad():
            fused = network(ir, vi)
        vi_input, ir_input = inputs[0][0, :, 48:80, 48:80]
        torch.testing.assert_close(vi_input, 255 * vi[0, 0])
        torch.testing.assert_close(ir_input, 255 * ir[0, 0])
        torch.testing.assert_close(fused, (outputs[0][..., 48:80, 48:80] / 255).clamp(0, 1))


class TestTHFuseTiny(NetworkTests):
    name = "thfuse_tiny"
    options: ClassVar[dict[str, int | float]] = {"width": 8, "growth": 4, "fine_width": 6, "dim": 16, "heads": 2}

    def test_every_pixel_counts(self) -> None:
        ir, vi = images(1, 32, 32)
        network = self.build()
        with torch.no_grad():
            fused = network(ir, vi)
            for place in ((8, 8), (8, 9), (9, 8), (9, 9)):
                changed = ir.clone()
                changed[(..., *place)] = 1 - changed[(..., *place)]
                difference = (network(changed, vi) - fused).abs()
                assert difference[(..., *place)].item() > 1e-4


def test_each_dense_layer_sees_all_results_before_it() -> None:
    branch, x = LiteDenseBranch(5, growth=4), torch.rand(2, 5, 8, 9)
    results = [x]
    for layer in branch.layers:
        assert isinstance(layer, LiteConv)
        results.append(layer(torch.cat(results, dim=1)))
    for own, expected in zip(branch(x), results, strict=True):
        torch.testing.assert_close(own, expected)


def test_weights_of_details_come_from_features_and_from_which_source_is_more_active() -> None:
    mixes, features = [DetailMix(3, 1), DetailMix(3, 2)], torch.rand(2, 3, 8, 6)
    for mix, own in zip(mixes, weights_of_features(mixes, features), strict=True):
        nothing = torch.zeros(2, mix.factor**2, 8, 6)
        torch.testing.assert_close(own, mix.weigh(torch.cat([features, nothing], dim=1)))


class TestTHFuseLite(NetworkTests):
    name = "thfuse_lite"
    options: ClassVar[dict[str, int | float]] = {"width": 8, "growth": 4, "fine_width": 6, "dim": 16, "heads": 2}

    def test_the_default_is_small_and_has_no_batch_norm(self) -> None:
        network = build_network("thfuse_lite")
        assert 60_000 <= count_parameters(network) <= 200_000
        assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    @pytest.mark.parametrize("active", ["infrared", "visible"])
    def test_starts_with_the_details_of_the_more_active_source_on_the_brighter_one(self, active: str) -> None:
        torch.manual_seed(0)
        network = build_network("thfuse_lite")
        textured = 0.5 + 0.2 * torch.randn(1, 1, 48, 48).clamp(-2, 2)
        flat = torch.full_like(textured, 0.1)
        ir, vi = (textured, flat) if active == "infrared" else (flat, textured)
        with torch.no_grad():
            difference = (network(ir, vi) - textured).abs().mean()
        assert 0 < difference < 0.03

    def test_attention_has_a_bounded_number_of_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = nn.functional.scaled_dot_product_attention
        keys = []

        def counting(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key.shape[-2])
            return attend(query, key, value)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counting)
        ir, vi = images(1, 320, 400)
        with torch.inference_mode():
            self.build()(ir, vi)
        assert keys == [256]

    def test_constant_masks_are_neutral_in_half_precision(self) -> None:
        network = self.build()
        ir, vi = images(1, 24, 24)
        constant = torch.full((1, 2, 24, 24), 0.5)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network(ir, vi, constant, constant), network(ir, vi))

    def test_learns_smooth_images(self) -> None:
        torch.manual_seed(0)
        network = build_network("thfuse_lite", **self.options)
        ramp = torch.linspace(0, 1, 32)
        vi = torch.stack([ramp.expand(32, 32), ramp.flip(0).expand(32, 32)]).unsqueeze(1)
        ir = vi.transpose(2, 3) * 0.8
        # Not what the network starts from.
        target = 0.5 * (ir + vi)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (network(ir, vi) - target).abs().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]


def test_every_network_has_its_tests() -> None:
    assert {tested.name for tested in NetworkTests.__subclasses__()} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_float32_whatever_is_the_default(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        network = build_network(name)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_unknown_names_and_options_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"'unet'.*thfuse_lite"):
        build_network("unet")
    with pytest.raises(UsageError, match=r"no option colour.*width"):
        build_network("thfuse_lite", colour=3)
    with pytest.raises(UsageError, match="dim=30"):
        build_network("thfuse_lite", dim=30)
    with pytest.raises(UsageError, match="depth=0"):
        build_network("thfuse_lite", depth=0)


def original_state_dict(network: FusionNetwork) -> dict[str, Tensor]:
    """The weights under the names that the authors' source gives them."""
    result = {}
    for key, value in network.state_dict().items():
        if key.startswith("guidance."):
            continue
        (original,) = [name for name, own in ORIGINAL_NAMES.items() if key.startswith(own)]
        result[original + key[len(ORIGINAL_NAMES[original]) :]] = value
    return result
