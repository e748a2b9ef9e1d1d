"""What takes too long is given up; what does not, passes on its result or its error."""

import threading

import pytest

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
