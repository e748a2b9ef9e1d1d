from pathlib import Path

import pytest

from thfuse_sam.training.epoch_log import LOG_NAME
from thfuse_sam.training.resuming import open_run_folder


@pytest.mark.parametrize(
    ("log", "resumes", "overwrite", "is_left"),
    [(True, False, True, False), (True, False, False, True), (True, True, True, True), (False, False, True, True)],
    ids=["earlier run", "not overwritten", "goes on", "of another program"],
)
def test_events_of_an_earlier_run(tmp_path: Path, log: bool, resumes: bool, overwrite: bool, is_left: bool) -> None:
    events = tmp_path / "logs" / "tensorboard" / "events.out.tfevents.1"
    events.parent.mkdir(parents=True)
    events.touch()
    if log:
        (tmp_path / "logs" / LOG_NAME).touch()
    resume = tmp_path / "old" / "latest.pth" if resumes else None
    open_run_folder(tmp_path / "new", tmp_path / "logs", resume, overwrite=overwrite)
    assert events.exists() == is_left
