import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from thfuse_sam import files
from thfuse_sam.errors import OutputError
from thfuse_sam.files import make_directory, write_atomically, write_json, write_text


def test_text_is_utf8_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "ä" / "b" / "wörter.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()


def test_json_keeps_characters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "夜"})
    assert "夜" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "夜"}


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)) as caught:
        write_atomically(path, write)
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reader_sees_old_content_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    seen: list[bytes] = []

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permission bits")
def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_long_names_and_many_threads(tmp_path: Path) -> None:
    paths = [tmp_path / f"{'夜' * 80}{index}.txt" for index in range(16)]
    threads = [threading.Thread(target=write_text, args=(path, path.name)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("make", [make_directory, lambda path: write_text(path / "a.txt", "a")])
def test_file_in_the_way(tmp_path: Path, make: object) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="a file is where a folder is needed"):
        make(tmp_path / "file")  # type: ignore[operator]


def test_make_directory_leaves_it_empty(tmp_path: Path) -> None:
    assert list(make_directory(tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="check space and permissions"):
            make_directory(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed, folder = files.partial_path(tmp_path / "a" / "x.npy"), files.partial_path(tmp_path / "report")
    killed.parent.mkdir()
    killed.write_bytes(b"half")
    folder.mkdir()
    (folder / "page.html").write_text("half")
    of_another_machine = tmp_path / f".x.npy.1234.elsewhere{files.PARTIAL_SUFFIX}"
    of_another_machine.write_bytes(b"half")
    finished = tmp_path / "finished.npy"
    finished.write_bytes(b"whole")
    with files.open_partial(files.partial_path(tmp_path / "y.npy")) as under_way:
        assert files.remove_abandoned(tmp_path) == 2
        assert sorted(tmp_path.rglob("*")) == sorted(
            [tmp_path / "a", of_another_machine, finished, Path(under_way.name)]
        )
    assert files.remove_abandoned(tmp_path) == 1
    assert files.remove_abandoned(tmp_path / "nowhere") == 0


def test_an_interrupt_just_after_opening_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "mark_being_written", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "x.png", lambda file: file.write(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.touch

    def interrupted(self: Path, **options: bool) -> None:
        original(self, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_directory(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
