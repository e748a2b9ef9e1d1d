"""What training and fine-tuning have in common."""

import pytest
import torch

from thfuse_sam.commands.runs import run_device
from thfuse_sam.errors import DeviceError


def test_each_process_of_a_run_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run_device("cuda:1") == torch.device("cuda:1") and run_device("cpu") == torch.device("cpu")
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert run_device("auto") == run_device("cuda:0") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="1 CUDA device"):
        run_device("cuda")
