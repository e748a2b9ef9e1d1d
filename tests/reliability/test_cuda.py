"""Every command computes on a GPU what it computes on the CPU, as far as this can be seen without one."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, Sam

from benchmarks.agreement import Masks
from benchmarks.common import ROOT
from benchmarks.oracle import LookUp
from benchmarks.precompute import SAMPLE
from thfuse_sam import products
from thfuse_sam.cli.commands import finetune, precompute, predict, test, train
from thfuse_sam.errors import DeviceError
from thfuse_sam.fusion.inference import fuse_batch
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import luma, read_for_sam, write_image
from thfuse_sam.losses.fusion import FusionLoss
from thfuse_sam.masks.instances import Instance
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, GeneratorSettings
from thfuse_sam.precompute.jobs import Job, JobSettings
from thfuse_sam.precompute.worker import make_masks
from thfuse_sam.sam import decoder as decoder_module
from thfuse_sam.sam import filtering
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator, BegunImage, SegmentedImage
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import MODEL_TYPES, build_sam
from tools.scenes import Scene, render_scene
from tools.vit_nano import __main__ as train_nano

from .pretended_cuda import REAL, assert_same_labels, assert_same_masks, pretended_cuda

pytestmark = pytest.mark.skipif(
    not hasattr(torch._C, "_ensureCUDADeviceGuardSet"), reason="needs a newer torch to pretend that there is a GPU"
)

NANO = dataclasses.replace(GENERATOR_DEFAULTS["vit_nano"], points_per_side=6, points_per_batch="auto")

IN_LINE = ["--num_workers", "0"]  # the pretended device is this process's


@pytest.fixture(autouse=True)
def one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both devices multiply alike: the pretended one does not know of oneDNN, which rounds otherwise."""
    monkeypatch.setattr(products, "_HAS_ONEDNN", False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THFUSE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def annotated(folder: Path) -> Path:
    """Two images with one object each, as in Penn-Fudan."""
    for name in ("PNGImages", "PedMasks"):
        (folder / "data" / name).mkdir(parents=True)
    for index in range(2):
        labels = np.zeros((40, 56), np.uint8)
        labels[5:20, 4 + index : 24] = 1
        Image.fromarray(labels * 200).save(folder / "data" / "PNGImages" / f"{index}.png")
        Image.fromarray(labels).save(folder / "data" / "PedMasks" / f"{index}_mask.png")
    return folder / "data"


@pytest.fixture(scope="module")
def street() -> Scene:
    return render_scene(900_000, height=120, width=160)


def shipped() -> Sam:
    resolved = resolve_sam("vit_nano", None)
    return build_sam(resolved.model_type, resolved.checkpoint)


def masks_of(instances: Sequence[Instance]) -> Masks:
    return [instance.mask for instance in instances]


@pytest.mark.skipif(REAL, reason="is about the pretended device")
def test_what_a_gpu_refuses_is_refused() -> None:
    with pretended_cuda():
        there = torch.ones(3, device="cuda")
        assert (there + 1).device == torch.device("cuda", 0) and (there + torch.tensor(1)).sum().item() == 6
        assert there.cpu().device.type == "cpu" and there[torch.tensor([0, 1])].shape == (2,)
        with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
            torch.ones(3)[there > 0]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"adaptive_points": True},
        {"crop_n_layers": 1},
        {"min_mask_region_area": 20},
        {"thermal_points": 8},
        {"pred_iou_thresh": 0, "stability_score_thresh": 0},
    ],
    ids=str,
)
def test_generator_makes_the_same_masks(street: Scene, changes: dict[str, float]) -> None:
    settings = dataclasses.replace(NANO, **changes)
    expected = AutomaticMaskGenerator(shipped(), settings).generate(street.visible, street.infrared)
    with pretended_cuda():
        generator = AutomaticMaskGenerator(shipped().to("cuda"), settings)
        found = generator.generate(street.visible, street.infrared)
    assert len(expected) > 3
    assert_same_masks(masks_of(expected), masks_of(found))


def test_little_is_waited_for_and_only_masks_that_stay_travel() -> None:
    """A scene of the usual size with the usual number of candidates, on a small model of 1,024 points."""
    image = cv2.resize(read_for_sam(SAMPLE, "vi"), (640, 480), interpolation=cv2.INTER_AREA)
    torch.manual_seed(0)
    sam = build_vit_nano(256).eval()
    settings = GeneratorSettings(points_per_batch="auto")
    lookup = LookUp(image, sam, settings, regions=(150, 80, 30))
    assert 750 < int((lookup.predicted_ious > settings.pred_iou_thresh).sum()) < 1000
    expected = lookup.generator(sam, settings).generate(image)
    assert 50 <= len(expected) <= 70
    with pretended_cuda() as traffic:
        generator = lookup.to("cuda").generator(sam.to("cuda"), settings)
        traffic.forget()
        found = generator.generate(image)
    assert traffic.bytes_to_host <= 3e6
    assert traffic.waits <= 12, traffic.reasons
    assert [(one.predicted_iou, one.point) for one in found] == [(one.predicted_iou, one.point) for one in expected]
    assert_same_masks(masks_of(expected), masks_of(found))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["vit_t", "plain"])
def test_other_encoders(street: Scene, kind: str, precision: str) -> None:
    def model() -> Sam:
        torch.manual_seed(0)
        if kind == "vit_t":
            return MODEL_TYPES["vit_t"].build().eval()
        encoder = ImageEncoderViT(
            128,
            depth=2,
            embed_dim=32,
            num_heads=2,
            out_chans=32,
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
        )
        return assemble_sam(encoder, 128, 32, mlp_dim=64).eval()

    # Of random weights the masks are empty; what matters is the way to them.
    settings = GeneratorSettings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, precision=precision)
    expected = AutomaticMaskGenerator(model(), settings).encode(street.visible).features
    with pretended_cuda() as traffic:
        generator = AutomaticMaskGenerator(model().to("cuda"), settings)
        traffic.forget()
        generator.generate(street.visible)
        assert traffic.waits <= 12, traffic.reasons
        frame = Frame.of(street.visible.shape[:2], generator.sam.image_encoder.img_size)
        assert generator._encode(street.visible, frame).device.type == "cuda"
        encoded = generator.encode(street.visible).features
    # The two kinds of autocast do not take the same operations for safe in 16 bits.
    tolerance = 1e-4 if precision == "fp32" else 0.1
    np.testing.assert_allclose(encoded, expected, rtol=tolerance, atol=tolerance)


def test_precompute_train_and_test(make_pairs, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = str(make_pairs(("a", "b"), size=(48, 64)))
    nano = ["--sam_model_type", "vit_nano"]

    def precompute_and_test(device: str) -> None:
        on = ["--device", device, "--output_dir"]
        options = ["--dataset_path", pairs, *nano, "--points_per_side", "4", "--save_embeddings"]
        assert precompute.main([*options, *on, f"masks_{device}"]) == 0
        options = ["--ir_dir", f"{pairs}/ir", "--vi_dir", f"{pairs}/vi", "--precomputed_masks_dir", f"masks_{device}"]
        assert test.main([*options, "--metrics", *on, f"fused_{device}"]) == 0

    precompute_and_test("cpu")
    with pretended_cuda():
        precompute_and_test("cuda")
    for name in ("ir/a", "vi/a", "ir/b", "vi/b"):
        assert_same_labels(*(np.load(f"masks_{device}/{name}.npy") for device in ("cpu", "cuda")))
    # Images so small have no MS_SSIM.
    scores = [json.loads(Path(f"fused_{device}/metrics.json").read_text())["mean"] for device in ("cpu", "cuda")]
    numbers = [{name: value for name, value in one.items() if value is not None} for one in scores]
    assert len(numbers[0]) > 10 and numbers[0] == pytest.approx(numbers[1], rel=0.02 if REAL else 1e-4)

    for masks in (["--precomputed_masks_dir", "masks_cuda"], ["--use_sam", "--precomputed_masks_dir", "none"]):
        argv = ["--dataset_path", pairs, "--epochs", "1", "--batch_size", "1", "--crop_size", "32", *IN_LINE]
        argv += [*nano, *masks, "--precision", "bf16", "--device", "cuda", "--seed", "1"]
        with pretended_cuda() as traffic:
            assert train.main([*argv, "--output_dir", f"models_{len(masks)}"]) == 0
        assert traffic.backward == [torch.device("cuda", 0)]
        assert "Tensor Cores" not in capsys.readouterr().err


def test_many_pairs_of_one_size_are_fused_by_a_graph(street: Scene, caplog: pytest.LogCaptureFixture) -> None:
    network, _ = load_network(ROOT / "models" / "thfuse_lite.safetensors")
    ir, vi = (torch.from_numpy(image)[None, None] / 255 for image in (street.infrared, luma(street.visible)))
    pairs = [(ir * level, vi, torch.rand(1, 2, *ir.shape[2:])) for level in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)]
    expected = [fuse_batch(network, pair, torch.device("cpu")) for pair in pairs]
    with pretended_cuda(), caplog.at_level("INFO", "thfuse_sam"):
        network.to("cuda")
        found = [fuse_batch(network, pair, torch.device("cuda", 0)) for pair in pairs]
    assert ("fusing without a CUDA graph" in caplog.text) is not REAL
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_training_loss_copies_nothing_to_the_gpu_and_hardly_waits() -> None:
    loss, labels = FusionLoss(), torch.zeros(1, 24, 32, dtype=torch.int64)
    labels[0, 4:12, 6:16] = 1
    with pretended_cuda() as traffic:
        images = [image.to("cuda") for image in torch.rand(3, 1, 1, 24, 32)]
        there = labels.to("cuda")
        traffic.forget()
        loss(*images, there, there)
    assert [reason for reason in traffic.reasons if reason.startswith("copy")] == []
    assert traffic.waits <= 4, traffic.reasons


@pytest.mark.parametrize("trained", [["--freeze_image_encoder"], ["--lora_rank", "2"], []], ids=str)
def test_finetune_and_predict(annotated: Path, trained: list[str]) -> None:
    torch.manual_seed(0)
    torch.save(build_vit_nano(64).state_dict(), "base.pth")
    argv = ["--data_dir", str(annotated), "--checkpoint", "base.pth", "--num_epochs", "1", *IN_LINE, *trained]
    with pretended_cuda() as traffic:
        assert finetune.main([*argv, "--device", "cuda", "--output_dir", "runs", "--exp_name", "one"]) == 0
    assert set(traffic.backward) == {torch.device("cuda", 0)}
    given = ["--input", str(annotated / "PNGImages" / "0.png"), "--checkpoint", "base.pth", "--points", "15,10"]
    assert predict.main([*given, "--output_dir", "cpu", "--device", "cpu"]) == 0
    with pretended_cuda():
        assert predict.main([*given, "--output_dir", "cuda", "--device", "cuda"]) == 0
    assert_same_labels(np.load("cpu/0.npy"), np.load("cuda/0.npy"))


def test_train_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)  # would last, and Hypothesis minds
    argv = ["--scenes", "1", "--rendered", "scenes.joblib", "--image_size", "64", "--crop_size", "64"]
    argv += ["--minutes", "0.02", "--batch_size", "2", "--prompts", "5", "--num_workers", "0", "--precision", "bf16"]
    argv += ["--epoch_images", "8"]
    argv += ["--threads", str(torch.get_num_threads())]
    with pretended_cuda() as traffic:
        assert train_nano.train.main([*argv, "--device", "cuda", "--output_dir", "nano"]) == 0
    assert traffic.backward
    with pretended_cuda():
        init = ["--init", "nano/vit_nano.safetensors"]
        assert train_nano.train.main([*argv, *init, "--device", "cuda", "--output_dir", "other"]) == 0


def test_the_next_image_is_begun_before_masks_are_waited_for(street: Scene, folder: Path) -> None:
    """In order and as one by one, also around an image that cannot be read and one whose points fail."""
    write_image(folder / "a.png", street.visible)
    (folder / "b.png").write_bytes(b"no image")
    write_image(folder / "c.png", np.ascontiguousarray(street.visible[::-1]))
    write_image(folder / "d.png", street.visible[:50])
    jobs = [Job("vi", name, folder / f"{name}.png") for name in "abcd"]
    expected = make_masks(jobs, AutomaticMaskGenerator(shipped(), NANO), JobSettings(), 0)
    steps: list[str] = []

    class Watched(AutomaticMaskGenerator):
        def begin(self, image, infrared=None):
            steps.append("begin")
            return super().begin(image)

        def segment(self, begun):
            if begun.image.shape[0] == 50:
                raise ValueError("no such points")
            segmented = super().segment(begun)
            settle = segmented.settle
            segmented.settle = lambda: (steps.append("settle"), settle())  # type: ignore[method-assign]
            return segmented

    with pretended_cuda():
        found = list(make_masks(jobs, Watched(shipped().to("cuda"), NANO), JobSettings(), 0, ahead=True))
        assert steps == ["begin", "settle", "begin", "begin", "settle"]
        results = [result.finish() for result in found]
    for one, other in zip(expected, results, strict=True):
        done = one.finish()
        assert done.job == other.job
        if other.job.name == "d":
            assert other.reason == "ValueError: no such points"
        else:
            assert done.reason == other.reason
            if done.label_map is not None and other.label_map is not None:
                assert_same_labels(done.label_map, other.label_map)


def test_a_failed_gpu_ends_the_run_with_one_line_and_a_tree_that_resumes(
    make_pairs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset_path", str(make_pairs(("a", "b"), size=(48, 64))), "--sam_model_type", "vit_nano"]
    argv += ["--points_per_side", "4", "--device", "cuda", "--output_dir", "masks"]
    segment, images = AutomaticMaskGenerator.segment, []

    def failing(generator: AutomaticMaskGenerator, begun: BegunImage) -> SegmentedImage:
        images.append(begun)
        if len(images) == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might ...")
        return segment(generator, begun)

    monkeypatch.setattr(AutomaticMaskGenerator, "segment", failing)
    with pretended_cuda():
        assert precompute.main(argv) == 1
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
        assert "vi" in line or "ir" in line
        assert "the GPU has failed: CUDA error: an illegal memory access was encountered; 2 of 4 masks are done" in line
        assert precompute.main(argv) == 0
    assert len(images) == 5 and len(list(Path("masks").rglob("*.npy"))) == 4


def test_a_gpu_without_bf16_takes_fp16(street: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(NANO, precision="auto")
    with pretended_cuda():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        generator = AutomaticMaskGenerator(shipped().to("cuda"), settings)
        assert generator.precision == "fp16"
        assert len(generator.generate(street.visible)) > 3


def test_a_full_gpu_says_how_much_is_free_and_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve_sam("vit_nano", None)

    def full(model: Sam, device: torch.device) -> Sam:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(Sam, "to", full)
    for kind in ("reserved", "allocated"):
        monkeypatch.setattr(torch.cuda, f"memory_{kind}", lambda device: 0)
    with pretended_cuda():
        for free, remedy in ((2**30, "`sam_model_type` vit_t or vit_nano"), (2**20, "`device` cpu")):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 * 2**30))
            with pytest.raises(DeviceError) as caught:
                build_sam(resolved.model_type, resolved.checkpoint, "cuda")
            assert str(caught.value) == (
                f"`device` cuda: vit_nano needs about 551 MiB, of 81920 MiB {free >> 20} are free; "
                f"end the programs that use the rest, or use {remedy}"
            )


@pytest.mark.parametrize("stage", ["decode", "upsample", "enlarge"])
def test_every_stage_goes_on_with_half_when_memory_ends(
    street: Scene, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = AutomaticMaskGenerator(shipped(), NANO).generate(street.visible)
    places = {"decode": (decoder_module, "_sparse_embeddings"), "upsample": (decoder_module._Upsampling, "__call__")}
    owner, name = places.get(stage, (filtering, "upsample_logits"))
    work, sizes = getattr(owner, name), []

    def small_only(*args):
        sizes.append(len(args[0 if stage == "enlarge" else 1]))
        if sizes[-1] > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return work(*args)

    with pretended_cuda():
        monkeypatch.setattr(owner, name, small_only)
        generator = AutomaticMaskGenerator(shipped().to("cuda"), NANO)
        found = generator.generate(street.visible)
    assert max(sizes) > 9 and sizes[-1] <= 9
    assert_same_masks(masks_of(expected), masks_of(found))
