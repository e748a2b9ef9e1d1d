"""What the evaluation says besides its figures."""

import importlib.util
import logging

import pytest

from thfuse_sam.finetune import evaluation


def test_the_missing_evaluator_is_named_once_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    evaluation._log_missing_evaluator.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            evaluation._mean_scores([], full=True)
    assert len([line for line in caplog.messages if "COCO AP" in line]) == 1
