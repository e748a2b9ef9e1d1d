"""A server that is silent or refuses is noticed in time. Real downloads are tested where they are used."""

import threading
from typing import Any

import pytest
import requests

from thfuse_sam import downloads


def test_silent_server_is_given_up_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def never(*arguments: Any, **options: Any) -> None:
        release.wait(10)
        raise requests.ConnectionError

    monkeypatch.setattr(downloads, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(requests, "head", never)
    assert not downloads._answers("https://example.invalid/file")
    release.set()


def test_refusing_server_does_not_cost_the_whole_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise requests.ConnectionError

    monkeypatch.setattr(downloads, "_PROBE_SECONDS", 60.0)
    monkeypatch.setattr(requests, "head", refuse)
    assert not downloads._answers("https://example.invalid/file")
