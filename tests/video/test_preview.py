"""The page on which a browser sees frames as they come."""

import socket
import threading
import urllib.request

import cv2
import numpy as np
import pytest

from tests.video.clips import scene
from thfuse_sam.errors import OptionError
from thfuse_sam.video.preview import Preview


def test_a_browser_sees_frames_as_they_come() -> None:
    preview, done = Preview(0), threading.Event()

    def show() -> None:
        while not done.wait(0.01):
            preview.show(scene())

    threading.Thread(target=show, daemon=True).start()
    with urllib.request.urlopen(preview.address, timeout=60) as page:
        assert page.headers.get_content_type() == "multipart/x-mixed-replace"
        for _ in range(2):
            assert page.readline() == b"--frame\r\n"
            head = dict(line.decode().strip().split(": ") for line in iter(page.readline, b"\r\n"))
            jpeg = np.frombuffer(page.read(int(head["Content-Length"]) + 2), np.uint8)
            assert np.abs(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(int) - scene()).mean() < 6
        preview.close()
        assert page.read() is not None  # the answer ends
    done.set()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"`preview` {port}: cannot be opened"):
            Preview(port)


def test_nothing_is_encoded_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    preview = Preview(0)
    monkeypatch.setattr(cv2, "imencode", None)
    preview.show(scene())
    preview.close()
