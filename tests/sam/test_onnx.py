"""A model as ONNX against the model itself: what is exported, and what onnxruntime makes of the files."""

import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, Sam

import thfuse_sam
from tests.fusion.test_onnx import require_exporter
from thfuse_sam.cli.commands import predict as command
from thfuse_sam.errors import OutputError
from thfuse_sam.sam import onnx
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.mask_model import FastSam
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.prompted import PromptTensors, predict
from thfuse_sam.sam.tiny_vit import build_vit_t

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["vit_nano", "vit_t", "vit"]
SHAPES = [(48, 80), (100, 37), (201, 150), (2, 90)]
# Points and their labels, of one prompt or of two; the last point of a prompt without a box is none.
PROMPTS = [
    ([[[5, 1], [0, 0]], [[20.5, 1.5], [0, 0]]], [[1, -1], [1, -1]]),
    ([[[20, 1], [3, 1], [0, 0]]], [[1, 0, -1]]),
    ([[[3, 0.5], [30, 1.75]]], [[2, 3]]),
]

Run = Callable[..., Any]  # tensors in, tensors out


def random_sam(kind: str) -> Sam:
    torch.manual_seed(1)
    if kind == "vit":
        encoder = ImageEncoderViT(img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3,
                                  global_attn_indexes=(1,), use_rel_pos=True)  # fmt: skip
        return assemble_sam(encoder, 64, 32, mlp_dim=64).eval()
    return (build_vit_nano(64) if kind == "vit_nano" else build_vit_t(64)).eval()


def assert_equal(sam: Sam, shape: tuple[int, int], encode: Run, decode: Run) -> None:
    """Compare the two functions with the package's own way on an image of `shape`."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    frame = Frame.of(shape, 64)
    own = FastSam(sam).encode(image, frame)
    found = encode(torch.from_numpy(image))
    assert (found - own).abs().max() < 0.01 * own.abs().max()
    for points, labels in PROMPTS:
        masks, scores = decode(
            own, torch.tensor(shape), torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
        )
        for i, kinds in enumerate(labels):
            xy = torch.from_numpy(frame.coordinates(np.array(points[i])))
            is_box = 2 in kinds
            inside = None if is_box else torch.tensor([kinds[:-1]], dtype=torch.int32)
            prompt = PromptTensors(boxes=xy.reshape(1, 4)) if is_box else PromptTensors(xy[None, :-1], inside)
            [own_mask], [own_score] = predict(sam, own[0], frame, prompt)
            assert masks[i].shape == shape and (masks[i].numpy() == own_mask).mean() > 0.999
            assert abs(float(scores[i]) - own_score) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_exported_is_the_model(kind: str, shape: tuple[int, int]) -> None:
    sam = random_sam(kind)
    assert_equal(sam, shape, onnx.SamEncoder(sam), onnx.SamDecoder(sam))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter
@pytest.mark.parametrize("kind", KINDS)
def test_the_files_make_the_masks_of_the_model(kind: str, tmp_path: Path) -> None:
    require_exporter()
    sam = random_sam(kind)
    assert onnx.export_sam_onnx(sam, tmp_path / "out") < onnx.TOLERANCE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["decoder.onnx", "encoder.onnx"]
    encoder, decoder = (onnx.open_session(tmp_path / "out" / name) for name in (onnx.ENCODER, onnx.DECODER))

    def decode(*tensors: torch.Tensor) -> list[torch.Tensor]:
        names = ("embedding", "size", "points", "labels")
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in decoder.run(["masks", "scores"], feed)]

    for shape in SHAPES:
        assert_equal(sam, shape, lambda image: torch.from_numpy(encoder.run(None, {"image": image.numpy()})[0]), decode)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter
def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_exporter()
    monkeypatch.chdir(tmp_path)
    assert command.main(["--sam_model_type", "vit_nano", "--export_onnx", "sam"]) == 0
    picture = Image.open(ROOT / "datasets" / "sample" / "test" / "vi" / "test_day_000.jpg")
    picture.save("vi.png")
    text = (ROOT / "docs" / "finetuning.md").read_text("utf-8").partition("<!-- onnx python -->\n")[2]
    code = textwrap.dedent("".join(itertools.takewhile(lambda line: line[:4].strip() == "", text.splitlines(True))))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    assert names["masks"].shape == (2, *picture.size[::-1])
    own = thfuse_sam.Sam.load("vit_nano").predict("vi.png", points=[[(120, 150)]], boxes=[(10, 20, 200, 180)])
    for mask, segment in zip(names["masks"], own.instances, strict=True):
        assert (mask == segment.mask).mean() > 0.999


def test_files_that_compute_something_else_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            if "image" in feed:
                return [np.zeros((1, 128, 4, 4), np.float32)]
            return [np.zeros((len(feed["points"]), *feed["size"]), bool), np.zeros(len(feed["points"]), np.float32)]

    monkeypatch.setattr(onnx, "require_exporter", lambda: None)
    monkeypatch.setattr(onnx, "_write", lambda *_: None)
    monkeypatch.setattr(onnx, "open_session", lambda _: Session())
    with pytest.raises(OutputError, match=r"`export_onnx` \S+out: onnxruntime's results differ from the model's by 1,"):
        onnx.export_sam_onnx(random_sam("vit_nano"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
