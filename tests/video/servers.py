"""Cameras on this machine, for tests: each serves frames to whoever connects, and hangs up."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

_TS_PACKET = 188  # bytes of a packet of an MPEG transport stream
_PER_RTP = 7  # of them in a packet of RTP


class _Camera:
    """Answers `connections` of them."""

    scheme = "tcp"

    def __init__(self, connections: int = 1) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"{self.scheme}://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, args=(connections,), daemon=True).start()

    def _run(self, connections: int) -> None:
        with self._socket:
            for _ in range(connections):
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(ConnectionError):  # whoever watched has gone
                    self.answer(connection)

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError


class TcpCamera(_Camera):
    """Sends a transport stream as it is."""

    def __init__(self, content: bytes, connections: int = 1) -> None:
        self.content = content
        super().__init__(connections)

    def answer(self, connection: socket.socket) -> None:
        connection.sendall(self.content)


class MjpegCamera(_Camera):
    """Sends frames, uint8 HxWx3, as cameras on the web do: as parts of one answer without an end (MJPEG)."""

    scheme = "http"

    def __init__(self, frames: Sequence[np.ndarray], connections: int = 1, pause: float = 0) -> None:
        self.frames, self.pause = frames, pause  # seconds after each frame
        super().__init__(connections)

    def answer(self, connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for frame in self.frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=95)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
            connection.sendall(head.encode() + file.getvalue() + b"\r\n")
            time.sleep(self.pause)


class HttpFile(TcpCamera):
    """Sends a file, and says how long it is."""

    scheme = "http"

    def answer(self, connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(self.content)}\r\n\r\n".encode() + self.content)


class RtspCamera(TcpCamera):
    """Sends a transport stream by RTP within the connection of RTSP (RFC 2326 and 2250)."""

    scheme = "rtsp"

    def __init__(self, content: bytes, connections: int = 1, pause: float = 0) -> None:
        self.pause = pause  # seconds after each packet
        super().__init__(content, connections)

    def answer(self, connection: socket.socket) -> None:
        requests = connection.makefile("rb")
        while lines := [line.decode().strip() for line in iter(requests.readline, b"\r\n") if line]:
            method, number = lines[0].split()[0], next(line for line in lines if line.startswith("CSeq"))
            more, body = "Session: 1\r\n", ""
            if method == "DESCRIBE":
                body = "\r\n".join(("v=0", "s=camera", "t=0 0", "m=video 0 RTP/AVP 33", "a=control:track", ""))
                more += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            connection.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                self._send(connection)
                return

    def _send(self, connection: socket.socket) -> None:
        size = _TS_PACKET * _PER_RTP
        for number, start in enumerate(range(0, len(self.content), size)):
            head = b"\x80\x21" + number.to_bytes(2, "big") + (number * 90).to_bytes(4, "big") + b"\0\0\0\1"
            packet = head + self.content[start : start + size]
            connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            time.sleep(self.pause)
