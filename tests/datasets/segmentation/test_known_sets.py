"""Downloads from a local server: good ones, cut ones, wrong ones, and archives that must be refused."""

import errno
import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.datasets.segmentation.known_sets import KnownSet, fetch
from thfuse_sam.errors import DownloadError

from .conftest import box_mask, picture


class Server:
    """Answers every request with `content`, of which it may send a part only."""

    def __init__(self) -> None:
        self.content, self.sent, self.status, self.asked = b"", 1.0, 200, 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content[: int(len(state.content) * state.sent)])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield state, f"http://127.0.0.1:{running.server_port}/set.zip"
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THFUSE_OFFLINE", raising=False)
    return tmp_path / "cache/datasets"


@pytest.fixture
def known(server: tuple[Server, str]) -> KnownSet:
    return KnownSet("small", server[1], None, "Small", "none")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(change: Callable[[zipfile.ZipFile], None] = lambda zipped: None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("Small/PNGImages/a.png", png(picture()))
        zipped.writestr("Small/PedMasks/a_mask.png", png(box_mask(value=1)))
        change(zipped)
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_fetched_once_and_opened(server: tuple[Server, str], cache: Path, known: KnownSet) -> None:
    server[0].content = archive()
    folder = fetch(known)
    assert open_segmentation_dataset(folder).names == ["a"]
    assert fetch(known) == folder and server[0].asked == 1
    kept = (cache / "small.zip.sha256").read_text().strip()
    assert kept == hashlib.sha256(server[0].content).hexdigest()
    assert names(cache) == ["small", "small.zip", "small.zip.sha256"]


def test_first_hash_is_held_against_later_downloads(server: tuple[Server, str], cache: Path, known: KnownSet) -> None:
    server[0].content = archive()
    folder = fetch(known)
    for path in (cache / "small.zip", *sorted(folder.rglob("*.png"))):
        path.unlink()
    folder.rename(cache / "moved")
    server[0].content = archive(lambda zipped: zipped.writestr("Small/more.txt", "new"))
    with pytest.raises(DownloadError, match="its SHA-256 is not the one kept in"):
        fetch(known)
    assert "small.zip" not in names(cache) and not (cache / "small/Small").exists()


def test_published_hash_is_checked(server: tuple[Server, str], cache: Path, known: KnownSet) -> None:
    server[0].content = archive()
    right = replace(known, sha256=hashlib.sha256(server[0].content).hexdigest())
    with pytest.raises(DownloadError, match="its SHA-256 is not the published one"):
        fetch(replace(known, sha256="0" * 64))
    assert names(cache) == []
    assert fetch(right).is_dir()


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_cut_connection_leaves_nothing(server: tuple[Server, str], cache: Path, known: KnownSet, part: float) -> None:
    server[0].content, server[0].sent = archive(), part
    with pytest.raises(DownloadError, match="small: not in the cache and the download failed") as caught:
        fetch(known)
    assert "\n" not in str(caught.value) and known.url in str(caught.value)
    assert names(cache) == []
    server[0].sent = 1.0
    assert fetch(known).is_dir()


def test_no_network_and_errors_of_the_server(
    server: tuple[Server, str], cache: Path, known: KnownSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="the server does not answer"):
        fetch(replace(known, url="http://127.0.0.1:1/set.zip"))
    server[0].status = 404
    with pytest.raises(DownloadError, match="404"):
        fetch(known)
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    with pytest.raises(DownloadError, match="THFUSE_OFFLINE forbids"):
        fetch(known)
    assert names(cache) == []


def link(zipped: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("Small/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped.writestr(member, "/etc/passwd")


UNSAFE: dict[str, Callable[[zipfile.ZipFile], None]] = {
    "above": lambda zipped: zipped.writestr("Small/../../evil.txt", "x"),
    "absolute": lambda zipped: zipped.writestr("/tmp/evil.txt", "x"),
    "backslash": lambda zipped: zipped.writestr("..\\evil.txt", "x"),
    "drive": lambda zipped: zipped.writestr("C:\\evil.txt", "x"),
    "link": link,
}


@pytest.mark.parametrize("change", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_archives_are_refused(
    server: tuple[Server, str], cache: Path, known: KnownSet, change: Callable[[zipfile.ZipFile], None]
) -> None:
    server[0].content = archive(change)
    with pytest.raises(DownloadError, match="is refused: member"):
        fetch(known)
    assert names(cache) == [] and not list(cache.parent.parent.rglob("evil*"))


NO_SUCH_ARCHIVE: dict[str, Callable[[], bytes]] = {
    "a page": lambda: b"<html>sign in</html>",
    "empty": lambda: b"",
    "cut off": lambda: archive()[:-30],
    "other folders": lambda: archive().replace(b"Small", b"Other"),
}


@pytest.mark.parametrize("content", NO_SUCH_ARCHIVE.values(), ids=NO_SUCH_ARCHIVE)
def test_what_is_no_such_archive_is_refused_and_not_trusted(
    server: tuple[Server, str], cache: Path, known: KnownSet, content: Callable[[], bytes]
) -> None:
    server[0].content = content()
    with pytest.raises(DownloadError):
        fetch(known)
    assert names(cache) == [], "neither the file nor its hash is kept"
    server[0].content = archive()
    assert fetch(known).is_dir()


def test_damaged_cached_archive_is_fetched_again(server: tuple[Server, str], cache: Path, known: KnownSet) -> None:
    server[0].content = archive()
    folder = fetch(known)
    for path in sorted(folder.rglob("*.png")):
        path.unlink()
    folder.rename(cache / "moved")
    (cache / "small.zip").write_bytes(b"damaged")
    assert fetch(known).is_dir() and server[0].asked == 2


def test_an_archive_that_its_publisher_changed_is_taken_by_hand(
    server: tuple[Server, str], cache: Path, known: KnownSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server[0].content = archive()
    fetch(known).rename(cache / "moved")
    changed = archive(lambda zipped: zipped.writestr("Small/more.txt", "new"))
    (cache / "small.zip").write_bytes(changed)
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"yourself to .*small\.zip.*delete .*small\.zip\.sha256"):
        fetch(known)
    assert (cache / "small.zip").read_bytes() == changed, "a file that the user has put there stays"
    (cache / "small.zip.sha256").unlink()
    assert (fetch(known) / "more.txt").is_file()


def test_a_full_disk_leaves_the_archive(
    server: tuple[Server, str], cache: Path, known: KnownSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(zipped: zipfile.ZipFile, folder: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    server[0].content = archive()
    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extractall", full)
        with pytest.raises(OSError, match="quota"):
            fetch(known)
    assert names(cache) == ["small.zip"]
    assert fetch(known).is_dir() and server[0].asked == 1
