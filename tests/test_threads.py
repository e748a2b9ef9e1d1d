import threading
import time
from collections.abc import Iterator

import pytest
import torch

from thfuse_sam.threads import map_in_threads


@pytest.fixture(autouse=True)
def seven_threads() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(7)
    yield
    assert torch.get_num_threads() == 7
    torch.set_num_threads(former)


@pytest.mark.parametrize(
    ("items", "most", "shares"),
    [(12, 4, {1, 2}), (12, 99, {1}), (2, 4, {3, 4}), (1, 4, {7}), (0, 4, set()), (12, 1, {7})],
)
def test_results_are_in_order_and_threads_share_those_of_pytorch(items: int, most: int, shares: set[int]) -> None:
    used: dict[int, int] = {}
    all_work = threading.Barrier(max(1, min(7, most, items)), timeout=60)

    def double(number: int) -> int:
        if threading.get_ident() not in used:
            used[threading.get_ident()] = torch.get_num_threads()
            all_work.wait()
        time.sleep(0.01 * (number % 3))
        return 2 * number

    assert map_in_threads(double, range(items), most) == list(range(0, 2 * items, 2))
    assert {*used.values()} == shares
    assert sum(used.values()) == (7 if items else 0)


def test_an_error_arrives_and_what_is_left_is_not_begun() -> None:
    begun: list[int] = []

    def broken_at_1(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise MemoryError("broken at 1")
        time.sleep(0.05)

    with pytest.raises(MemoryError, match="broken at 1"):
        map_in_threads(broken_at_1, range(1000), 2)
    assert len(begun) < 100


def test_a_thread_that_cannot_be_started_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    before = time.monotonic()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        map_in_threads(abs, range(4), 2)
    started[0].join(10)
    assert not started[0].is_alive() and time.monotonic() - before < 30
