"""Frames of two streams, matched by their times; frames read ahead by a thread."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from thfuse_sam.video.reading import Frame, Stream

_T = TypeVar("_T")
_AHEAD = 4  # frames that are read before they are asked for
_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 2.0


@dataclass
class Unmatched:
    """Visible frames without an infrared one, because that stream begins later, or has a gap."""

    frames: int = 0
    ended_first: str | None = None  # the stream whose end left frames of the other one over


def matched(
    infrared: Iterator[Frame], visible: Iterator[Frame], offset: float, unmatched: Unmatched
) -> Iterator[tuple[Frame, Frame]]:
    """Each visible frame with the infrared frame that is nearest in time, until one of the streams ends.

    Args:
        offset: seconds that are added to the times of the infrared stream.
        unmatched: counts visible frames that have no infrared frame within one interval of the infrared stream.
    """
    last = next(infrared, None)
    following = next(infrared, None)
    interval = 0.0
    for frame in visible:
        if last is None:
            unmatched.ended_first = "infrared"
            return
        while following is not None and abs(following.time + offset - frame.time) <= abs(
            last.time + offset - frame.time
        ):
            interval = following.time - last.time
            last, following = following, next(infrared, None)
        if following is not None:
            interval = following.time - last.time
        distance = frame.time - last.time - offset
        if following is None and distance > max(interval / 2, 1e-6) + 1e-6:
            unmatched.ended_first = "infrared"
            return
        if abs(distance) <= max(interval, 1e-6) + 1e-6:
            yield last, frame
        else:
            unmatched.frames += 1
    if following is not None:
        unmatched.ended_first = "visible"


class Ahead(Generic[_T]):
    """Iterates over items that a thread of its own takes from an iterator; errors of the iterator are raised here.

    Args:
        items: the iterator.
        drop: leave out the oldest item where the next one has come and none was taken, as with live streams.
    """

    def __init__(self, items: Iterator[_T], *, drop: bool = False) -> None:
        self.dropped = 0
        self._queue: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue(_AHEAD)
        self._drop = drop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_T]:
        while True:
            try:
                item, error = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if self._stopped.is_set():
                    return
                continue
            if error is not None:
                if isinstance(error, StopIteration):
                    return
                raise error
            yield item  # type: ignore[misc]

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """End the thread, for which it has `seconds`, and whoever waits for its items. One that waits for a camera ends
        by itself.
        """
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self, items: Iterator[_T]) -> None:
        try:
            for item in items:
                if self._drop and self._queue.full():
                    with contextlib.suppress(queue.Empty):
                        self._queue.get_nowait()
                        self.dropped += 1
                self._put((item, None))
                if self._stopped.is_set():
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[_T | None, BaseException | None]) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(entry, timeout=_POLL_SECONDS)
                return


def open_frames(stream: Stream) -> Ahead[Frame]:
    """The frames of a stream, read by a thread."""
    return Ahead(stream.frames(), drop=stream.is_live)
