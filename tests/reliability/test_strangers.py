"""Files of strangers run no code, lead to no other file, and write nothing outside."""

import ast
import http.server
import io
import json
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thfuse_sam import downloads
from thfuse_sam.cli.commands import finetune, precompute, predict, test, train
from thfuse_sam.datasets.segmentation import known_sets, open_segmentation_dataset
from thfuse_sam.errors import DownloadError, ThFuseError
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.masks.embeddings import EmbeddingFiles
from thfuse_sam.masks.format import read_mask
from thfuse_sam.masks.shards import MaskShards
from thfuse_sam.sam.weights import read_weights
from thfuse_sam.training.checkpoint import load_checkpoint

from .conftest import CASES, FAST_MASKS, small_data

ROOT = Path(__file__).resolve().parents[2]


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self._proof), "w"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def malicious(kind: str, proof: Path) -> bytes:
    """A pickle that runs code, as PyTorch's zip file, as its older plain one, in NumPy's file, or alone."""
    content = {"format_version": 1, "image_encoder.pos_embed": torch.ones(1), "model": Payload(proof)}
    stream = io.BytesIO()
    if kind in ("zip", "legacy"):
        torch.save(content, stream, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "npy":
        np.save(stream, np.array([[Payload(proof)]], dtype=object), allow_pickle=True)
    else:
        pickle.dump(content, stream)
    return stream.getvalue()


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    with pytest.warns(ResourceWarning):
        pickle.loads(malicious("plain", tmp_path / "proof"))  # noqa: S301
        import gc

        gc.collect()
    assert (tmp_path / "proof").exists()


# Calls that can run what a file holds, and the argument that keeps them from it; None: there is none.
DANGEROUS = {
    "torch.load": ("weights_only", {"True"}),
    "np.load": ("allow_pickle", {"False"}),
    "yaml.load": ("Loader", {"_PlainLoader", "_TextLoader"}),
    **dict.fromkeys(
        ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "yaml.unsafe_load", "yaml.full_load",
         "eval", "exec", "os.system", "marshal.loads", "shelve.open", "np.fromfile"),
    ),
}  # fmt: skip
# The cache of rendered scenes and photos' regions that training vit_nano itself has written.
TRUSTED = {("tools/vit_nano/__main__.py", "joblib.load")}


def test_no_module_calls_what_runs_code_in_files() -> None:
    for path in sorted((ROOT / "thfuse_sam").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or (name := ast.unparse(call.func)) not in DANGEROUS:
                continue
            safe = DANGEROUS[name]
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            allowed = (path.relative_to(ROOT).as_posix(), name) in TRUSTED
            assert allowed or (safe is not None and given.get(safe[0]) in safe[1]), f"{path}:{call.lineno}: {name}"


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain", "npy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npy", ".safetensors"])
def test_no_reader_runs_a_pickle(tmp_path: Path, kind: str, suffix: str) -> None:
    path, proof = tmp_path / f"strange{suffix}", tmp_path / "proof"
    path.write_bytes(malicious(kind, proof))
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "a.safetensors").write_bytes(path.read_bytes())
    readers: list[Callable[[], object]] = [
        lambda: load_network(path),
        lambda: load_checkpoint(path),
        lambda: read_weights(path),
        lambda: read_mask(path, None),
        lambda: EmbeddingFiles(tmp_path).read("ir", "a"),
    ]
    for read in readers:
        with pytest.raises(ThFuseError, match=r"strange|a\.safetensors"):
            read()
    assert not proof.exists()


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (precompute.main, ["--dataset_path", "{data}/pairs", "--sam_checkpoint", "{bad}", *FAST_MASKS]),
        (train.main, ["--dataset_path", "{data}/pairs", "--precomputed_masks_dir", "none", "--resume", "{bad}"]),
        (train.main, ["--dataset_path", "{data}/pairs", "--vgg_weights", "{bad}", "--loss_weights", "perceptual=1"]),
        (test.main, ["--dataset_path", "{data}/pairs", "--precomputed_masks_dir", "none", "--model_path", "{bad}"]),
        (finetune.main, ["--data_dir", "{data}/objects", "--checkpoint", "{bad}"]),
        (finetune.main, ["--data_dir", "{data}/objects", "--checkpoint", "{data}/nano.pth", "--resume", "{bad}"]),
        (predict.main, ["--input", "{data}/pairs/vi", "--checkpoint", "{bad}"]),
    ],
    ids=["precompute", "train resume", "train vgg", "test", "finetune", "finetune resume", "predict"],
)
def test_no_command_runs_a_pickle(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int],
    argv: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    proof, bad = tmp_path / "proof", tmp_path / "bad.pth"
    bad.write_bytes(malicious("zip", proof))
    assert main([value.format(data=data, bad=bad) for value in argv]) in (1, 2)
    assert "bad.pth" in capsys.readouterr().err
    assert not proof.exists()


# Paths in files


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """An image that no data set may reach; the data set goes to `tmp_path / "set"`."""
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    return tmp_path / "secret.png"


WAYS_OUT = ["../secret.png", "{absolute}", "a/../../secret.png", "..\\secret.png", "link.png", "linked/secret.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("kind", ["labelme", "coco"])
def test_annotations_name_no_file_outside(outside: Path, kind: str, way: str) -> None:
    root = outside.parent / "set"
    (root / "link.png").symlink_to(outside)
    (root / "linked").symlink_to(outside.parent)
    named = way.format(absolute=outside)
    if kind == "labelme":
        shapes = [{"label": "a", "points": [[1, 1], [6, 1], [6, 5]], "shape_type": "polygon"}]
        (root / "0.json").write_text(json.dumps({"shapes": shapes, "imagePath": named}))
        opened = root
    else:
        images = [{"id": 1, "file_name": named, "height": 6, "width": 8}]
        annotations = [{"id": 1, "image_id": 1, "segmentation": [[1, 1, 6, 1, 6, 5]]}]
        (root / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
        opened = root / "annotations.json"
    with pytest.raises(ThFuseError, match=r"outside|link out of"):
        open_segmentation_dataset(opened)


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a/../../../escaped"])
def test_archives_and_manifests_write_nothing_outside(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["--dataset_path", str(data / "pairs"), "--sam_checkpoint", str(data / "nano.pth"), *FAST_MASKS]
    assert precompute.main([*run, "--store", "shards"]) == 0
    with tarfile.open(tmp_path / "precomputed_masks" / "shards" / "99999-evil.tar", "w") as tar:
        header = tarfile.TarInfo(f"ir/{name}.npy")
        header.size = 4
        tar.addfile(header, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("ir/link.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    manifest = tmp_path / "precomputed_masks" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["failures"].append({"modality": "ir", "name": name, "path": "x.png", "reason": "none"})
    manifest.write_text(json.dumps(content))
    before = {path for path in tmp_path.parent.rglob("*") if "escaped" in path.name}
    assert not MaskShards(tmp_path / "precomputed_masks").has("ir", "link")
    for more in ([], ["--verify"]):
        assert precompute.main([*run, *more]) in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err
    assert {path for path in tmp_path.parent.rglob("*") if "escaped" in path.name} == before


@pytest.mark.parametrize("member", ["../escaped.txt", "/escaped.txt", "C:\\escaped.txt", "link"])
def test_downloaded_archives_stay_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "cache" / "datasets" / "evil.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("good/a.txt", "a")
        info = zipfile.ZipInfo(member)
        info.external_attr = (0o120777 << 16) if member == "link" else 0
        zipped.writestr(info, "/etc/passwd")
    known = known_sets.KnownSet("evil", "http://127.0.0.1:9/evil.zip", None, "good", "none")
    with pytest.raises(DownloadError, match="refused"):
        known_sets.fetch(known)
    assert not list(tmp_path.rglob("escaped*")) and not list(tmp_path.rglob("*.partial"))


# Downloads


@pytest.fixture
def server() -> Iterator[str]:
    """A server whose answer is not what its publisher promised."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"evil")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/file"
        running.shutdown()


def test_a_download_of_another_hash_is_never_there(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THFUSE_OFFLINE", raising=False)
    with pytest.raises(DownloadError):
        downloads.download(server, tmp_path / "file.pth", "0" * 64)
    assert list(tmp_path.iterdir()) == []


# Names in reports


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_a_file_name_that_is_html_stays_a_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "<img src=x onerror=alert(1)>'\"&amp;<script>.png"
    for modality, mode in (("ir", "L"), ("vi", "RGB")):
        (tmp_path / "pairs" / modality).mkdir(parents=True)
        Image.new(mode, (24, 24), 90).save(tmp_path / "pairs" / modality / name, "PNG")
    argv = [*CASES["test"].argv("results"), "--report", "--model_path", str(data / "net.safetensors")]
    assert test.main(argv) == 0
    report = tmp_path / "results" / "report"
    pages = [path for path in report.iterdir() if path.suffix in (".js", ".html")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in pages}
    assert "onerror=alert" in texts["data.js"]
    assert all("<img src=x" not in text and "<script>.png" not in text for text in texts.values())
    assert not [path for path in report.rglob("*") if "onerror" in path.name]
