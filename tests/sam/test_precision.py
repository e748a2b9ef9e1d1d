"""What `--precision` means on a device."""

import logging

import pytest
import torch

from thfuse_sam.sam.precision import resolve_precision

CPU = torch.device("cpu")


def with_capabilities(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),  # computes bf16 in software
        ({}, "fp32"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_multiplies_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_capabilities(monkeypatch, **capabilities)
    assert resolve_precision("auto", CPU) == expected


def test_older_torch_without_a_list_of_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "fp32")])
def test_auto_on_a_gpu(capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda:0")) == expected


def test_a_slow_choice_is_kept_and_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with_capabilities(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert resolve_precision("fp32", CPU) == "fp32"
        assert not caplog.records
        assert resolve_precision("bf16", CPU) == "bf16"
    assert "`precision` bf16" in caplog.text
