"""Finding, downloading and reading checkpoints; nothing here leaves this machine."""

import dataclasses
import hashlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pooch
import pytest
import requests
import torch
from safetensors.torch import save_file

from thfuse_sam import downloads
from thfuse_sam.errors import CheckpointError, UsageError
from thfuse_sam.sam import checkpoints, weights
from thfuse_sam.sam.adapt import Adaptation, prepare, trained_state
from thfuse_sam.sam.checkpoints import checkpoint_sha256, resolve_sam
from thfuse_sam.sam.export import save_trained
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from thfuse_sam.sam.weights import read_weights

CONTENT = b"published weights"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no way out, and `vit_t` published as CONTENT."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAM_CACHE", str(folder))
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    published = dataclasses.replace(MODEL_TYPES["vit_t"], sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(MODEL_TYPES, "vit_t", published)
    return folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a shipped `vit_nano`."""
    folder = tmp_path / "models"
    folder.mkdir()
    save_file({"tensor": torch.zeros(1)}, folder / "vit_nano.safetensors")
    monkeypatch.setattr(checkpoints, "_SHIPPED_FOLDER", folder)
    return folder / "vit_nano.safetensors"


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes | Exception) -> list[str]:
    """Let downloads give `content`; returns the list of URLs asked for."""
    asked: list[str] = []

    class Downloader:
        def __init__(self, **options: Any) -> None:
            pass

        def __call__(self, url: str, output_file: str, pooch: Any) -> None:
            asked.append(url)
            if isinstance(content, Exception):
                raise content
            Path(output_file).write_bytes(content)

    monkeypatch.delenv("THFUSE_OFFLINE")
    monkeypatch.setattr(downloads, "_answers", lambda url: True)
    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    return asked


def nano_file(path: Path) -> Path:
    torch.save(build_vit_nano(64).state_dict(), path)
    return path


def test_auto_takes_the_type_from_the_file(tmp_path: Path) -> None:
    path = nano_file(tmp_path / "mine.pth")
    resolved = resolve_sam("auto", path)
    assert (resolved.model_type, resolved.checkpoint) == ("vit_nano", path)
    assert resolved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolve_sam("vit_nano", path) == resolved


def test_explicit_type_must_agree(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a vit_nano, not a vit_b; .*\(\d+ missing: .*pos_embed") as caught:
        resolve_sam("vit_b", nano_file(tmp_path / "mine.pth"))
    assert "unknown: image_encoder." in str(caught.value)
    assert "use `sam_model_type` vit_nano or" in str(caught.value)


@pytest.mark.parametrize("frozen", [("image_encoder",), ()])
def test_trained_weights_alone_name_the_way_to_a_whole_file(tmp_path: Path, frozen: tuple[str, ...]) -> None:
    base = resolve_sam("auto", nano_file(tmp_path / "base.pth"))
    sam, adaptation = build_sam("vit_nano", base.checkpoint), Adaptation(frozen)
    prepare(sam, adaptation)
    path = tmp_path / "best.safetensors"
    save_trained(path, trained_state(sam, adaptation), base.trained_header(adaptation))
    for model_type in ("auto", "vit_nano"):
        with pytest.raises(CheckpointError, match=r"trained weights alone.* `checkpoint` .*best\.safetensors `export`"):
            resolve_sam(model_type, path)


def test_unknown_type_and_unknown_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`sam_model_type` huge"):
        resolve_sam("huge", tmp_path / "x.pth")
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no Segment Anything checkpoint of a known type"):
        resolve_sam("auto", path)


def test_auto_prefers_the_cache(cache: Path, shipped: Path) -> None:
    cache.mkdir()
    (cache / "mobile_sam.pt").write_bytes(CONTENT)
    resolved = resolve_sam()
    assert (resolved.model_type, resolved.checkpoint) == ("vit_t", cache / "mobile_sam.pt")


def test_auto_downloads(cache: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, CONTENT)
    resolved = resolve_sam()
    assert resolved.model_type == "vit_t"
    assert resolved.checkpoint.read_bytes() == CONTENT
    assert asked == [MODEL_TYPES["vit_t"].url]
    assert resolve_sam() == resolved
    assert len(asked) == 1, "the second time it comes from the cache"


def test_auto_falls_back_with_one_line(cache: Path, shipped: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolved = resolve_sam()
    assert (resolved.model_type, resolved.checkpoint) == ("vit_nano", shipped)
    (record,) = caplog.records
    assert "the small SAM that ships (vit_nano)" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_auto_without_anything(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_SHIPPED_FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="THFUSE_OFFLINE"):
        resolve_sam()
    with pytest.raises(CheckpointError, match=r"vit_nano\.safetensors: the shipped vit_nano is missing"):
        resolve_sam("vit_nano")


def test_explicit_type_without_network_names_url_and_remedy(cache: Path, shipped: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_sam("vit_h")
    assert str(MODEL_TYPES["vit_h"].url) in str(caught.value)
    assert "`sam_checkpoint`" in str(caught.value)
    assert str(cache / "sam_vit_h_4b8939.pth") in str(caught.value)
    assert resolve_sam("vit_nano").checkpoint == shipped


@pytest.mark.parametrize(
    "content", [b"<html>sign in</html>", requests.ConnectionError("reset by peer"), OSError(28, "No space left")]
)
def test_failed_download_leaves_nothing(
    cache: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | Exception
) -> None:
    serve(monkeypatch, content)
    with pytest.raises(CheckpointError, match="vit_t: no checkpoint in the cache and the download failed"):
        resolve_sam("vit_t")
    assert list(cache.iterdir()) == []
    assert resolve_sam("auto").model_type == "vit_nano"


@pytest.mark.parametrize("model_type", ["auto", "vit_t"])
def test_without_fetching_the_file_to_be_is_named(
    cache: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, model_type: str
) -> None:
    asked = serve(monkeypatch, CONTENT)
    with caplog.at_level(logging.INFO):
        planned = resolve_sam(model_type, fetch=False)
    assert not asked and not cache.exists() and "would first download it" in caplog.text
    assert resolve_sam(model_type) == planned


def test_damaged_cache_is_replaced(cache: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "mobile_sam.pt").write_bytes(CONTENT[:5])
    with pytest.raises(CheckpointError):
        resolve_sam("vit_t")
    serve(monkeypatch, CONTENT)
    assert resolve_sam("vit_t").checkpoint.read_bytes() == CONTENT


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


def test_malicious_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": Malicious()}, path)
    with pytest.raises(CheckpointError, match=r"refused, it holds code \(\w+\.system\)"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.5, 0.999])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"sam{suffix}"
    weights = {"weight": torch.rand(100, 100)}
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("page.pth", b"\n<!DOCTYPE html><html>not found</html>", "web page"),
        ("page.safetensors", b"<html></html>", "web page"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("empty.pth", b"", "empty"),
        ("noise.pth", b"\x93 no pickle at all", r"no checkpoint \(Unsupported operand 147\)"),
        ("model.onnx", b"x", r"ends in \.pth, \.pt, .*\.safetensors, not in '\.onnx'"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint; check `sam_checkpoint`"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"none\.pth: cannot be read"):
        checkpoint_sha256(tmp_path / "none.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights(tmp_path / "folder.pth")


def test_pickles_of_older_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert read_weights(path)["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"epoch": 3}])
def test_checkpoints_without_weights(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no named weights"):
        read_weights(path)


# A real server on this machine


@pytest.fixture
def server(cache: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Publishes `vit_t` on a local server. `served` is what it sends; `promised` the length that it announces."""
    state: dict[str, Any] = {"served": CONTENT, "promised": len(CONTENT), "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            state["asked"].append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(state["promised"]))
            self.end_headers()
            self.wfile.write(state["served"])

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    monkeypatch.delenv("THFUSE_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = f"http://127.0.0.1:{running.server_port}/mobile_sam.pt"
    monkeypatch.setitem(MODEL_TYPES, "vit_t", dataclasses.replace(MODEL_TYPES["vit_t"], url=url))
    state["stop"] = lambda: (running.shutdown(), running.server_close(), thread.join())
    yield state
    if thread.is_alive():
        state["stop"]()


def test_download_happens_once(server: dict[str, Any], cache: Path) -> None:
    assert resolve_sam("vit_t").checkpoint.read_bytes() == CONTENT
    assert resolve_sam("vit_t").checkpoint.parent == cache
    assert server["asked"] == ["/mobile_sam.pt"]


def assert_clear_error_and_nothing_left(cache: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        resolve_sam("vit_t")
    assert "\n" not in str(caught.value) and "`sam_checkpoint`" in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_cut_connection(server: dict[str, Any], cache: Path) -> None:
    server["promised"] = len(CONTENT) + 1000
    assert_clear_error_and_nothing_left(cache, "the download failed")
    server["promised"] = len(CONTENT)
    assert resolve_sam("vit_t").checkpoint.is_file()


def test_other_content_than_published(server: dict[str, Any], cache: Path) -> None:
    server["served"] = CONTENT[::-1]
    assert_clear_error_and_nothing_left(cache, "the download failed .*hash")


def test_no_network(server: dict[str, Any], cache: Path) -> None:
    server["stop"]()
    assert_clear_error_and_nothing_left(cache, "the server does not answer")


def test_ctrl_c_while_exported_settings_are_read_is_no_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"generator_settings": "{}"})
    opened = weights.safetensors.safe_open

    def interrupted(*arguments: Any, **options: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:  # as the library's own code does
            raise weights.safetensors.SafetensorError(str(error)) from error
        return opened(*arguments, **options)

    monkeypatch.setattr(weights.safetensors, "safe_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.exported_settings(path)
