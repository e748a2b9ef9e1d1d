import torch

from thfuse_sam.models.guidance import GuidanceBranch, gated, relative_guidance


def test_nothing_given_is_no_guidance() -> None:
    assert relative_guidance(None, None) is None


def test_each_channel_of_each_image_is_measured_from_its_minimum() -> None:
    ir = torch.full((2, 2, 4, 4), 0.3)
    ir[1, 0, 1, 2] = 1.0
    joined = relative_guidance(ir, None)
    assert joined is not None
    assert joined.shape == (2, 4, 4, 4)
    assert joined[0].abs().max() == 0
    assert joined[1, 0, 1, 2] == torch.tensor(1.0) - torch.tensor(0.3)
    assert joined.count_nonzero() == 1


def test_visible_guidance_comes_last() -> None:
    vi = torch.zeros(1, 2, 4, 4)
    vi[0, 1, 0, 0] = 1
    joined = relative_guidance(None, vi)
    assert joined is not None
    assert joined[0, 3, 0, 0] == 1
    assert joined.count_nonzero() == 1


def test_gates_have_each_scale_and_are_bounded_and_zero_for_zero() -> None:
    torch.manual_seed(0)
    branch = GuidanceBranch([1, 3, 5])
    gates = branch(100 * torch.rand(2, 4, 16, 24))
    assert [tuple(gate.shape) for gate in gates] == [(2, 1, 16, 24), (2, 3, 8, 12), (2, 5, 4, 6)]
    assert all(0 < gate.abs().max() <= 1 for gate in gates)
    assert all(gate.count_nonzero() == 0 for gate in branch(torch.zeros(2, 4, 16, 24)))


def test_gating_multiplies_and_keeps_the_type() -> None:
    features = torch.rand(1, 3, 4, 4).to(torch.bfloat16)
    assert gated(features, None) is features
    assert torch.equal(gated(features, torch.zeros(1, 3, 4, 4)), features)
    half_more = gated(features, torch.full((1, 3, 4, 4), 0.5))
    assert half_more.dtype == torch.bfloat16
    torch.testing.assert_close(half_more, features * 1.5)
