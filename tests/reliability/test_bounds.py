"""Files that ask for more than anybody has: refused in a few seconds and with little memory."""

import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thfuse_sam.cli.commands import train
from thfuse_sam.datasets.segmentation import open_segmentation_dataset
from thfuse_sam.errors import ThFuseError
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.images import image_size, read_visible
from thfuse_sam.masks.format import read_mask
from thfuse_sam.masks.instances import decode_instances
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.shards import MaskShards
from thfuse_sam.models import build_network
from thfuse_sam.sam.checkpoints import resolve_tuned
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.training.checkpoint import NetworkSpec

from .fuzz_targets import trained_seeds

SECONDS = 15.0  # of this process's own work, because a busy machine takes longer; a slow one needs five
BYTES = 300 << 20


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    tracemalloc.start()
    started = time.process_time()
    yield
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < SECONDS and peak < BYTES, f"{seconds:.1f} s, {peak >> 20} MiB"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained adapters and the weights that they belong to.

    Made before a test's time runs: the first adapters of a process import what takes longer than all that is bounded.
    """
    pytest.importorskip("peft", exc_type=ImportError)  # an optional extra, which old versions of NumPy cannot import
    folder = tmp_path_factory.mktemp("adapters")
    (seed,) = [content for content in trained_seeds(folder) if b"lora_A" in content]
    (folder / "seed.safetensors").write_bytes(seed)
    return folder


def png(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds a few rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (9_000, 9_000)])
def test_an_image_that_unpacks_to_gigabytes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(ThFuseError, match=r"bomb\.png"):
        read_visible(path)


def test_metadata_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    content = zlib.compress(bytes(100 << 20), 9)
    text = b"zTXt" + b"a\0\0" + content
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    whole = png(4, 4)
    path = tmp_path / "bomb.png"
    path.write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(ThFuseError):
        read_visible(path)
    with pytest.raises(ThFuseError):
        image_size(path)


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(1000000000000, 1)", "(9" + "9" * 200 + ", 2)"])
def test_a_mask_that_claims_1e12_values(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    path = tmp_path / "mask.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100))
    with pytest.raises(ThFuseError, match=r"mask\.npy"):
        read_mask(path, None)


def test_a_polygon_of_60000_points(tmp_path: Path) -> None:
    tracemalloc.stop()  # it slows the making and the reading of so many numbers down
    angles = np.linspace(0, 2 * np.pi, 60_000, endpoint=False)
    points = np.stack([60 + 50 * np.cos(angles), 60 + 50 * np.sin(angles)], axis=1).tolist()
    Image.new("RGB", (120, 120)).save(tmp_path / "a.png")
    shapes = [{"label": "a", "points": points, "shape_type": "polygon"}]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    found = open_segmentation_dataset(tmp_path)
    assert int(found[0].mask(1).sum()) == pytest.approx(np.pi * 50**2, rel=0.01)


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("manifest.json", DEEP, lambda path: Manifest.load(path.parent)),
        ("a.json", f'{{"shapes": {DEEP}}}', lambda path: open_segmentation_dataset(path.parent)),
        ("annotations.json", f'{{"images": {DEEP}, "annotations": []}}', open_segmentation_dataset),
        ("instances.json", DEEP, lambda path: decode_instances(path.read_bytes(), "here", (4, 4))),
        ("options.yaml", f"epochs: {DEEP}", lambda path: parse(path)),
        ("options.yaml", "epochs: [" * 30_000, lambda path: parse(path)),
        ("mixture.yaml", f"train: {DEEP}", open_segmentation_dataset),
        ("options.yaml", "a: " + "x" * (1 << 22), lambda path: parse(path)),
    ],
)
def test_deep_and_long_documents(tmp_path: Path, name: str, content: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ThFuseError) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) < 2000


def test_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "options.yaml").write_text("\n".join(lines))
    with pytest.raises(ThFuseError, match="aliases"):
        parse(tmp_path / "options.yaml")


def test_shards_that_are_no_tar_files(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(b"\0" * 1024 + b"x" * (8 << 20))
    (tmp_path / "shards" / "0.json").write_text(DEEP)
    assert MaskShards(tmp_path).names("ir") == []


@pytest.mark.parametrize("number", [4000, 10**9, 1e300])
def test_a_checkpoint_that_claims_a_huge_network(tmp_path: Path, number: float) -> None:
    network = build_network("thfuse_lite")
    for option, value in network.options.items():
        if isinstance(value, int) and not isinstance(value, bool):
            spec = NetworkSpec("thfuse_lite", {**network.options, option: number})
            save_network(tmp_path / "net.safetensors", network, spec)
            with pytest.raises(ThFuseError, match=r"net\.safetensors"):
                load_network(tmp_path / "net.safetensors")


def test_trained_weights_that_claim_huge_adapters(tmp_path: Path, adapters: Path) -> None:
    seed = (adapters / "seed.safetensors").read_bytes()
    content = seed.replace(b'{\\"rank\\": 4, \\"alpha\\": 8.0', b'{\\"rank\\": 99999999, \\"alpha\\": 8')
    # The header's length is in the first eight bytes.
    length = int.from_bytes(seed[:8], "little") + len(content) - len(seed)
    (tmp_path / "trained.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(ThFuseError, match="claims adapters of rank 99999999 and holds"):
        load_sam(resolve_tuned("auto", tmp_path / "trained.safetensors", base=adapters / "base.pth"))


def parse(path: Path) -> object:
    return train.build_parser().parse_command(["--config", str(path)])
