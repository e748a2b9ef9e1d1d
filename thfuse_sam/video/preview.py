"""A page on which a browser shows frames as they come: JPEG after JPEG in one answer without an end (MJPEG)."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import OptionError

_POLL_SECONDS = 0.5
_BOUNDARY = "frame"


class Preview:
    """Serves the latest frame to browsers on this machine until it is closed.

    Args:
        port: 0: any free one, see `address`.

    Raises:
        OptionError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        self._new, self._jpeg, self._watching, self._is_open = threading.Condition(), b"", 0, True
        preview = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
                self.end_headers()
                with contextlib.suppress(OSError):  # the browser has gone
                    preview._send_frames(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Page)
        except OSError as error:
            raise OptionError("preview", port, f"cannot be opened ({error.strerror}); give another port") from None
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, image: ImageArray) -> None:
        """The next frame, uint8 HxW or HxWx3 RGB; nothing is encoded while nobody watches."""
        if self._watching:
            stored = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
            jpeg = cv2.imencode(".jpg", stored)[1].tobytes()
            with self._new:
                self._jpeg = jpeg
                self._new.notify_all()

    def close(self) -> None:
        """End all answers and free the port."""
        with self._new:
            self._is_open = False
            self._new.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _send_frames(self, page: BaseHTTPRequestHandler) -> None:
        with self._new:
            self._watching += 1
        try:
            shown = b""
            while self._is_open:
                with self._new:
                    self._new.wait(_POLL_SECONDS)
                    jpeg = self._jpeg
                if jpeg is not shown:
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    page.wfile.write(head.encode() + jpeg + b"\r\n")
                    shown = jpeg
        finally:
            with self._new:
                self._watching -= 1
