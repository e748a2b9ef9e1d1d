import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import thfuse_sam as th
from thfuse_sam.cli.commands import test as fuse_command
from thfuse_sam.errors import (
    CheckpointError,
    DownloadError,
    ImageKindError,
    ImageReadError,
    ImageSizeError,
    MaskReadError,
    UsageError,
)
from thfuse_sam.fusion.loading import save_network
from thfuse_sam.images import luma, read_infrared, read_visible
from thfuse_sam.shipped import shipped_root
from thfuse_sam.training.checkpoint import NetworkSpec

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def fuser() -> th.Fuser:
    return th.Fuser("thfuse_lite", device=torch.device("cpu"))


def fused_by_command(pair: Pair, work: Path, *options: str) -> np.ndarray:
    for modality, path in zip(("ir", "vi"), pair, strict=True):
        (work / modality).mkdir(parents=True)
        Image.open(path).save(work / modality / "a.png")
    argv = ["--ir_dir", str(work / "ir"), "--vi_dir", str(work / "vi"), "--output_dir", str(work / "out")]
    assert fuse_command.main([*argv, "--device", "cpu", *options]) == 0
    return read_visible(work / "out" / "a.png")


def test_equal_to_the_command(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = fused_by_command(pair, tmp_path, "--no-report")
    assert np.array_equal(th.fuse(*pair, device="cpu"), expected)
    arrays = read_infrared(pair[0]), read_visible(pair[1])
    assert np.array_equal(th.fuse(*arrays, device="cpu"), expected)
    assert np.array_equal(th.fuse(*(Image.open(path) for path in pair), device="cpu"), expected)
    grey = th.fuse(*pair, gray=True, device="cpu")
    assert grey.ndim == 2 and np.median(np.abs(luma(expected).astype(int) - grey)) <= 1


def test_a_changed_model_file_is_read_again(pair: Pair, tmp_path: Path) -> None:
    tiny, lite = (shipped_root() / "models" / f"{name}.safetensors" for name in ("thfuse_tiny", "thfuse_lite"))
    path = tmp_path / "mine.safetensors"
    shutil.copy(tiny, path)
    first = th.fuse(*pair, model=path, device="cpu")
    shutil.copy(lite, path)
    again = th.fuse(*pair, model=path, device="cpu")
    assert (first != again).any() and np.array_equal(again, th.fuse(*pair, model=lite, device="cpu"))


def test_masks_are_those_of_a_tree(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.zeros(read_infrared(pair[0]).shape, np.uint8)
    labels[40:90, 60:160] = 1
    for modality in ("ir", "vi"):
        (tmp_path / "masks" / modality).mkdir(parents=True)
        np.save(tmp_path / "masks" / modality / "a.npy", labels)
    expected = fused_by_command(pair, tmp_path, "--no-report", "--precomputed_masks_dir", "masks")
    path = tmp_path / "masks" / "vi" / "a.npy"
    assert np.array_equal(th.fuse(*pair, masks=(labels, path), device="cpu"), expected)
    assert np.array_equal(th.fuse(*pair, masks=(labels.astype(np.int64), labels > 0), device="cpu"), expected)


def test_ranges_of_values(fuser: th.Fuser, pair: Pair) -> None:
    ir, vi = read_infrared(pair[0]), read_visible(pair[1])
    expected = fuser(ir, vi)
    assert np.array_equal(fuser(ir / 255, vi / 255, value_range=(0, 1)), expected)
    deep = ir.astype(np.uint16) * 257, vi.astype(np.uint16) * 257
    assert np.array_equal(fuser(*deep, value_range=(0, 65535)), expected)
    assert np.array_equal(fuser(ir[..., None], np.dstack([vi, ir])), expected)  # one channel; alpha


def test_arrays_and_pil_images_are_read_as_files_are(fuser: th.Fuser, pair: Pair, tmp_path: Path) -> None:
    vi, grey = read_visible(pair[1]), read_infrared(pair[0])
    border = np.arange(grey.shape[1]) < 20  # nothing was measured there
    deep = np.where(border, 0, 7000 + 4 * grey.astype(np.uint16)).astype(np.uint16)
    degrees = np.where(border, np.nan, grey).astype(np.float32)
    seen = np.where(border, 0, 255) * np.ones_like(grey)
    layers = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(seen.astype(np.uint8))])
    for name, stored in (("16.png", deep), ("float.tiff", degrees), ("seen.png", layers)):
        (stored if isinstance(stored, Image.Image) else Image.fromarray(stored)).save(tmp_path / name)
        expected = fuser(tmp_path / name, vi, value_range=(0, 9000))
        assert np.array_equal(fuser(Image.open(tmp_path / name), vi, value_range=(0, 9000)), expected)
        if stored is not layers:
            assert np.array_equal(fuser(stored, vi, value_range=(0, 9000)), expected)
    swapped_bytes = deep.astype(">u2")[::-1][::-1]
    assert np.array_equal(fuser(swapped_bytes, vi, value_range=(0, 9000)), fuser(deep, vi, value_range=(0, 9000)))


def test_false_colours_and_closed_images_are_refused(fuser: th.Fuser, tmp_path: Path) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    jet = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    Image.fromarray(jet).save(tmp_path / "jet.png")
    for given, error in ((jet, UsageError), (tmp_path / "jet.png", ImageKindError)):
        with pytest.raises(error, match=r"in false colours, like jet, .*; give its numbers or grey values, HxW$"):
            fuser(given, ramp)
    marked = np.dstack([ramp] * 3)
    marked[20:24, 20:40] = (255, 0, 0)
    with pytest.raises(UsageError, match=r"images are swapped, .*; give its numbers or grey values"):
        fuser(marked, ramp)
    closed = Image.open(tmp_path / "jet.png")
    closed.close()
    with pytest.raises(UsageError, match="`ir` cannot be decoded"):
        fuser(closed, ramp)


def test_an_image_of_0_and_1_is_asked_about(fuser: th.Fuser, pair: Pair, caplog) -> None:
    infrared = read_infrared(pair[0])
    for given, argument in (((infrared // 128, pair[1]), "ir"), ((infrared, infrared // 200), "vi")):
        caplog.clear()
        fuser(*given)
        assert f"`{argument}` holds only 0 and 1, of 0 to 255: is it a mask" in caplog.text


def test_swapped_and_equal_images_are_asked_about(fuser: th.Fuser, pair: Pair, caplog) -> None:
    for given, question in (
        ((pair[1], pair[0]), "`ir` has colours and `vi` has none: are they swapped?"),
        ((pair[0], pair[0]), "`ir` and `vi` show the same picture: is one given twice?"),
        (pair, ""),
    ):
        caplog.clear()
        fuser(*given)
        assert [record.message for record in caplog.records] == ([question] if question else [])


def rounds_to(fused: torch.Tensor, image: np.ndarray) -> bool:
    """Without gradients some layers add up in another order, which may turn a half upwards."""
    return np.allclose(fused[0, 0].detach().numpy() * 255, image, rtol=0, atol=0.501)


def test_tensors_keep_their_gradients(fuser: th.Fuser, pair: Pair) -> None:
    ir, vi = read_infrared(pair[0]), read_visible(pair[1])
    tensors = [torch.tensor(image / 255, dtype=torch.float32)[None, None] for image in (ir, luma(vi))]
    tensors[0].requires_grad_()
    fused = fuser(*tensors)
    assert rounds_to(fused, fuser(ir, vi, gray=True))
    fused.mean().backward()
    assert tensors[0].grad is not None and tensors[0].grad.abs().sum() > 0
    colour = torch.tensor(vi.transpose(2, 0, 1) / 255, dtype=torch.float32)[None]
    torch.testing.assert_close(fuser(tensors[0], colour), fused, atol=0.02, rtol=0)
    labels = np.zeros((1, *ir.shape), np.uint8)
    labels[0, 40:90, 60:160] = 1
    assert torch.equal(fuser(*(tensor.double() for tensor in tensors)), fused)
    masked = fuser(*tensors, masks=(torch.tensor(labels), labels))
    grey = fuser(ir, vi, masks=(labels[0], labels[0]), gray=True)
    assert rounds_to(masked, grey)


def test_many_pairs_in_batches_and_their_progress(fuser: th.Fuser, pair: Pair) -> None:
    ir, vi = read_infrared(pair[0]), read_visible(pair[1])
    pairs = [(ir, vi), (ir[:64], vi[:64]), (ir[64:128], vi[64:128]), (ir, vi, (None, None))]
    seen: list[tuple[int, int | None]] = []
    fused = list(fuser.many(pairs, batch_size=2, progress=lambda done, total: seen.append((done, total))))
    for one, (first, second, *_) in zip(fused, pairs, strict=True):
        assert np.abs(one.astype(int) - fuser(first, second)).max() <= 1  # batches round otherwise
    assert seen == [(1, 4), (3, 4), (4, 4)]
    assert list(fuser.many(iter([]))) == []
    shrunk = ir[::2, ::2]
    masks = None, np.ones(ir.shape, np.uint8)
    [one] = fuser.many([[shrunk, vi, masks]], align="size", emphasis="ir")
    assert np.array_equal(one, fuser(shrunk, vi, masks, align="size", emphasis="ir"))
    some, none = [(ir, vi), (ir, vi, masks)], [(ir, vi), (ir, vi, (None, None))]
    assert len(list(fuser.many(some, emphasis="ir"))) == len(list(fuser.many(iter(some), emphasis="ir"))) == 2
    assert list(fuser.many([], emphasis="ir")) == []
    for pairs in (none, iter(none)):
        with pytest.raises(UsageError, match="`emphasis` ir: it is for segments of masks"):
            list(fuser.many(pairs, emphasis="ir"))
    for none in (["ab"], [(ir,)], [5]):
        with pytest.raises(UsageError, match=r"`pairs` has .*; each is \(ir, vi\)"):
            list(fuser.many(none))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`pairs` None: give pairs"):
        list(fuser.many(None))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`progress` 3: give a function"):
        list(fuser.many([], progress=3))  # type: ignore[arg-type]


def test_a_folder_of_the_hubs_form(
    fuser: th.Fuser, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuser.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = th.Fuser.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(again(*pair), fuser(*pair))
    assert np.array_equal(th.fuse(*pair, model=tmp_path / "model" / "model.safetensors", device="cpu"), fuser(*pair))
    save_network(
        tmp_path / "own.safetensors", fuser.network, NetworkSpec("thfuse_lite", fuser.network.options), (0, 40_000)
    )
    own = th.Fuser(tmp_path / "own.safetensors", device="cpu")
    own.save_pretrained(tmp_path / "own")
    again = th.Fuser.from_pretrained(tmp_path / "own", device="cpu")
    deep = tmp_path / "deep.png"
    Image.fromarray(read_infrared(pair[0]).astype(np.uint16) * 50 + 7000).save(deep)
    expected = fuser(deep, pair[1], value_range=(0, 40_000))
    assert np.array_equal(own(deep, pair[1]), expected) and np.array_equal(again(deep, pair[1]), expected)
    assert not np.array_equal(fuser(deep, pair[1]), expected)
    (tmp_path / "model" / "README.md").write_text("mine")
    fuser.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: holds no model\.safetensors; give a folder"):
        th.Fuser.from_pretrained(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no such folder"):
        th.Fuser.from_pretrained(tmp_path / "missing")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cached = tmp_path / "cache" / "models--owner--kept"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a1")
    shutil.copytree(tmp_path / "model", cached / "snapshots" / "a1")
    kept = th.Fuser.from_pretrained("owner/kept", local_files_only=True, device="cpu")
    assert np.array_equal(kept(*pair), fuser(*pair))
    with pytest.raises(DownloadError, match="owner/name: no such folder, and not to be had from the Hub"):
        th.Fuser.from_pretrained("owner/name", local_files_only=True)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((4, 5, 6, 7)), None), {}, UsageError, r"`ir` is float64 of shape \(4, 5, 6, 7\); give a path, a"),
        ((np.zeros((32, 32), "U1"), None), {}, UsageError, "`ir` is <U1 .*array of numbers"),
        ((np.zeros((32, 32)), None), {}, UsageError, r"which of its values .*`value_range`, such as \(0\.0, 1\.0\)"),
        ((np.zeros((0, 32), np.uint8), None), {}, UsageError, "`ir` is uint8"),
        (
            (None, np.zeros((32, 30), np.uint8)),
            {},
            ImageSizeError,
            "`ir` is 32x32 and `vi` 30x32 .*align them, with `align=.similarity",
        ),
        (("no.png", None), {}, ImageReadError, "no.png: no such file"),
        ((None, None), {"value_range": (1, 0)}, UsageError, "`value_range`.*the lower one first"),
        ((None, None), {"masks": (np.zeros((8, 8), int), None)}, ImageSizeError, "`masks of ir` is 8x8 and its image"),
        ((None, None), {"masks": (None, "no.npy")}, MaskReadError, "^`masks of vi` no.npy: no such mask"),
        ((None, None), {"masks": (None, np.full((32, 32), -1))}, UsageError, "`masks of vi` has values that no mask"),
        ((None, None), {"masks": (None, np.full((32, 32), np.nan))}, UsageError, "values that no mask has"),
        ((None, None), {"masks": (None, np.zeros((2, 32, 32)))}, UsageError, "`masks of vi` is float64"),
        ((None, None), {"masks": (None,)}, UsageError, "`masks` a tuple of 1: give two"),
        (
            (None, None),
            {"masks": np.zeros((32, 32), int)},
            UsageError,
            r"`masks` ndarray of shape \(32, 32\): give two",
        ),
        (
            (None, None),
            {"masks": (np.full((32, 32), 10**9), None)},
            UsageError,
            "labels up to 1000000000; give labels up",
        ),
        (([[1, 2], [3]], None), {}, UsageError, "`ir` is no array "),
        ((np.ma.masked_less(np.zeros((32, 32), np.uint8), 1), None), {}, UsageError, "masked values; .*`filled`"),
        ((np.full((32, 32), np.nan), None), {"value_range": (0, 1)}, UsageError, "`ir`: no pixel is a finite number"),
        (
            (np.zeros((32, 32), int), None),
            {"value_range": (7, 9)},
            UsageError,
            "from 0 to 0, none in `value_range` 7 9",
        ),
        ((None, None), {"rig": 3}, UsageError, "`rig` 3: give a path"),
        ((None, None), {"value_range": 5}, UsageError, "`value_range` 5: give two numbers"),
        ((None, None), {"value_range": (0, np.inf)}, UsageError, "`value_range`.*: give two numbers"),
        ((None, None), {"emphasis": "ir"}, UsageError, "`emphasis` ir: it is for segments of masks"),
        (
            (None, None),
            {"emphasis": "ir", "masks": (None, None)},
            UsageError,
            "`emphasis` ir: it is for segments of masks",
        ),
        ((None, None), {"emphasis": {3: "ir"}}, UsageError, "`emphasis` of 3: no such segment"),
        ((None, None), {"emphasis": {("ir", 3): "ir"}}, UsageError, r"`emphasis` of \('ir', 3\): no such segment"),
        ((5, None), {}, UsageError, "`ir` is int; give a path, a PIL image, or an array"),
        (
            (torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32) * 255),
            {},
            UsageError,
            r"`vi` is .* to 255; give a float",
        ),
        ((torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32, dtype=int)), {}, UsageError, "`vi` is torch.int64 from"),
        ((torch.zeros(1, 1, 32, 32) / 0, torch.zeros(1, 1, 32, 32)), {}, UsageError, "`ir` is torch.float32 from nan"),
        (
            (torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)),
            {"gray": True},
            UsageError,
            "`gray` is for images, not for tensors; leave it out",
        ),
        ((torch.zeros(1, 1, 32, 32), None), {}, UsageError, "is a tensor and the other is none"),
        ((torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)), {}, UsageError, "give tensors Bx1xHxW"),
        ((torch.zeros(1, 1, 32, 32, device="meta"), torch.zeros(1, 1, 32, 32)), {}, UsageError, "meta; give a dense"),
        (
            (torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)),
            {"masks": ("ab", None)},
            UsageError,
            "`masks of ir` ab: give label maps BxHxW",
        ),
        ((torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 30)), {}, ImageSizeError, "differ in size"),
    ],
)
def test_bad_input_is_one_sentence(
    fuser: th.Fuser, arguments: tuple, options: dict, error: type[Exception], message: str
) -> None:
    good = np.zeros((32, 32), np.uint8)
    with pytest.raises(error, match=message) as caught:
        fuser(*(good if argument is None else argument for argument in arguments), **options)
    assert "--" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"`model` .*missing\.pth: no such file; give thfuse_lite or thfuse_tiny"):
        th.Fuser(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match=r"a folder; open it with `Fuser.from_pretrained`"):
        th.Fuser(tmp_path)
    with pytest.raises(UsageError, match=r"`folder` .*: give a path"):
        th.Fuser(device="cpu").save_pretrained("")
    with pytest.raises(UsageError, match="`model` None: give a path"):
        th.Fuser(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`device` gpu"):
        th.fuse(np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8), device="gpu")
    with pytest.raises(UsageError, match="`precision`"):
        th.Fuser(precision="fp8")  # type: ignore[arg-type]


def test_metrics_equal_the_commands(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fused_by_command(pair, tmp_path, "--no-report", "--metrics", "--gray")
    expected = json.loads((tmp_path / "out" / "metrics.json").read_text())["images"]["a"]
    grey = th.fuse(*pair, gray=True, device="cpu")
    assert th.metrics(grey, *pair) == {name: expected[name] for name in th.METRICS}
    turned = 255 - read_infrared(pair[0])
    assert th.metrics(grey, turned, pair[1], "MI", ir_polarity="black-hot") == {"MI": expected["MI"]}
    with pytest.raises(UsageError, match="`names` FOO"):
        th.metrics(grey, *pair, names=["FOO"])
    for names in (3, [["EN"]]):
        with pytest.raises(UsageError, match=r"`names` .*: no such metric"):
            th.metrics(grey, *pair, names=names)  # type: ignore[arg-type]
    with pytest.raises(ImageSizeError, match="at least 2x2 pixels"):
        th.metrics(grey[:1], grey[:1], grey[:1])
    with pytest.raises(ImageSizeError, match="images of one size"):
        th.metrics(grey[:50], *pair)
