"""What takes too long is given up; what does not, passes on its result or its error."""

import signal
import sys
import threading
import time

import pytest

from thfuse_sam import time_limit
from thfuse_sam.time_limit import within


def test_results_and_errors_are_passed_on() -> None:
    assert within(10, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)


def test_what_hangs_is_given_up() -> None:
    answered = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, lambda: answered.wait(10))
    answered.set()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows wakes no thread that waits")
def test_work_has_ended_when_an_interrupt_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "_LAST_SECONDS", 60.0)
    ended = threading.Event()

    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        within(10, work)
    assert ended.is_set()
