import signal
import sys
import threading
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from thfuse_sam.fusion.loading import load_network
from thfuse_sam.interrupts import StopRequest, delay_interrupts
from thfuse_sam.sam.weights import read_weights

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")


def test_an_interrupt_comes_at_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), delay_interrupts():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest")
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_interrupt_is_made_up_and_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), delay_interrupts():
        raise ZeroDivisionError
    with delay_interrupts():
        pass


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with delay_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_first_interrupt_asks_second_one_interrupts_and_the_old_handler_returns() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("read", [load_network, read_weights])
def test_an_interrupt_is_not_taken_for_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    original = safetensors.safe_open

    def interrupted(*arguments: object, **options: object):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as the extension does
            raise ValueError("could not determine the shape") from None
        return original(*arguments, **options)

    monkeypatch.setattr(safetensors, "safe_open", interrupted)
    monkeypatch.setattr(safetensors.torch, "safe_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(path)
