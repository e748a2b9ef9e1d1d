"""Times of files, which many systems take from a clock that stands still for up to ten milliseconds."""

import time
from pathlib import Path


def wait_for_another_time(path: Path) -> None:
    """Wait until a change of `path` gets another time than it has now."""
    probe = path.with_name(f"{path.name}.probe")
    while True:
        probe.touch()
        if probe.stat().st_ctime_ns > path.stat().st_ctime_ns:
            break
        time.sleep(0.001)
    probe.unlink()
