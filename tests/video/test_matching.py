"""Frames find their partners by time; items read ahead keep their order, and live ones are dropped."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from thfuse_sam.errors import VideoError
from thfuse_sam.video.matching import Ahead, Unmatched, matched
from thfuse_sam.video.reading import Frame


def frames(*times: float) -> Iterator[Frame]:
    return (Frame(time, np.zeros((2, 2), np.uint8)) for time in times)


def partners(
    infrared: Iterator[Frame], visible: Iterator[Frame], offset: float = 0.0
) -> tuple[list[tuple[float, float]], int]:
    unmatched = Unmatched()
    return [(ir.time, vi.time) for ir, vi in matched(infrared, visible, offset, unmatched)], unmatched.frames


def test_a_slower_infrared_stream_is_repeated() -> None:
    pairs, unmatched = partners(frames(0, 0.1, 0.2), frames(0, 0.04, 0.08, 0.12, 0.16, 0.2))
    assert pairs == [(0, 0), (0, 0.04), (0.1, 0.08), (0.1, 0.12), (0.2, 0.16), (0.2, 0.2)] and not unmatched


def test_a_faster_one_is_thinned_out() -> None:
    assert partners(frames(0, 0.02, 0.04, 0.06, 0.08), frames(0, 0.045))[0] == [(0, 0), (0.04, 0.045)]


def test_the_offset_moves_the_infrared_stream() -> None:
    pairs, unmatched = partners(frames(0, 1, 2), frames(0, 1, 2, 3, 4, 5), offset=2.0)
    assert pairs == [(0, 1), (0, 2), (1, 3), (2, 4)] and unmatched == 1


def test_it_ends_with_the_stream_that_ends_first() -> None:
    for ir, vi, number, ended_first in (
        (frames(0, 1, 2), frames(*range(9)), 3, "infrared"),
        (frames(*range(9)), frames(0, 1), 2, "visible"),
        (frames(), frames(0, 1), 0, "infrared"),
        (frames(0, 1, 2), frames(0, 1, 2), 3, None),
    ):
        unmatched = Unmatched()
        assert len(list(matched(ir, vi, 0.0, unmatched))) == number
        assert unmatched.ended_first == ended_first


def test_a_gap_has_no_partners() -> None:
    pairs, unmatched = partners(frames(0, 1, 2, 2.1), frames(5, 6))
    assert pairs == [] and unmatched == 0


def test_items_read_ahead_keep_their_order_and_errors_arrive() -> None:
    def items() -> Iterator[int]:
        yield from range(20)
        raise VideoError("broken")

    taken = []
    ahead = Ahead(items())
    with pytest.raises(VideoError, match="broken"):
        for item in ahead:
            taken.append(item)
    assert taken == list(range(20))


def test_the_oldest_of_live_items_are_dropped_and_counted() -> None:
    done = threading.Event()

    def items() -> Iterator[int]:
        yield from range(50)
        done.set()

    ahead = Ahead(items(), drop=True)
    assert done.wait(60)
    taken = [item for _, item in zip(range(3), ahead, strict=False)]
    ahead.close()
    assert ahead.dropped > 40 and taken == sorted(taken) and taken[0] > 40
