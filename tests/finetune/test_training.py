"""Fine-tuning of a small random model: batches, resume, cache, several processes, ends of training."""

import csv
import itertools
import json
import logging
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import SegmentationSample
from thfuse_sam.datasets.segmentation.augment import flipped
from thfuse_sam.errors import TrainingError, UsageError
from thfuse_sam.finetune.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.finetune.evaluation import (
    ESTIMATE,
    evaluate_sam,
    fitting_threshold,
    mean_iou,
    predict_objects,
)
from thfuse_sam.finetune.model import PromptedSam
from thfuse_sam.finetune.samples import PromptedSamples, collate, object_masks
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.options.training import FinetuneSettings, Schedule
from thfuse_sam.report.finetune import result_table
from thfuse_sam.sam.adapt import Adaptation, prepare
from thfuse_sam.sam.checkpoints import ResolvedSam, resolve_tuned
from thfuse_sam.sam.geometry import Frame, resize_image
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.prompted import low_resolution_targets
from thfuse_sam.sam.registry import build_sam
from thfuse_sam.training import checkpoint as checkpoints
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.schedules import learning_rate
from thfuse_sam.training.trainer import Trainer

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the processes of a test share this module

from fake_objects import FakeObjects, write_base  # noqa: E402

pytest.importorskip("peft")  # here, because old versions of what it needs draw random numbers while they are imported

FROZEN = Adaptation(("image_encoder",))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedSam:
    return write_base(tmp_path_factory.mktemp("base") / "base.pth")


class Loss(SegmentationLoss):
    """A loss that becomes NaN, or presses Ctrl-C, at its n-th call in training."""

    calls = 0
    nan_at: int | None = None
    interrupt_at: int | None = None

    def __call__(self, logits: torch.Tensor, *rest: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = super().__call__(logits, *rest)
        Loss.calls += 1
        if Loss.calls == Loss.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return {**parts, "total": parts["total"] * math.nan} if Loss.calls == Loss.nan_at else parts


@pytest.fixture(autouse=True)
def quiet_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("calls", 0), ("nan_at", None), ("interrupt_at", None)):
        monkeypatch.setattr(Loss, name, value)


def make_trainer(
    base: ResolvedSam,
    folder: Path,
    *,
    adaptation: Adaptation = FROZEN,
    cache: Path | None = None,
    val: Any = 2,
    images: int = 5,
    mix: PromptMix | None = None,
    device: str = "cpu",
    **settings: Any,
) -> Trainer:
    set_seed(7)
    sam = build_sam("vit_nano", base.checkpoint)
    values = {"epochs": 2, "batch_size": 2, "lr": 1e-3, "warmup_steps": 2, "seed": 7, "save_interval": 2, "flip": 0.0}
    task = FinetuneTask(
        sam,
        base,
        adaptation,
        Loss(),
        mix or PromptMix(box=1.0, point=1.0, negative=0.5, mask=0.5),
        FakeObjects(images),
        FakeObjects(val) if val else None,
        FinetuneSettings(**{**values, **settings}),
        cache=None if cache is None else EmbeddingCache(cache, encoder_signature(sam)),
    )
    return Trainer(task, device=torch.device(device), output_dir=folder, options={"note": "kept"})


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "train_log.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def assert_same_end(one: Path, other: Path) -> None:
    first, second = (checkpoints.load_checkpoint(folder / "latest.pth") for folder in (one, other))
    for name in ("weights", "optimizer", "scheduler", "progress", "random_states", "epoch", "step"):
        assert same(getattr(first, name), getattr(second, name)), name
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    assert read_log(one) == read_log(other)


# Batches


def loss_of(base: ResolvedSam, images: list[int], n_objects: int, sub_iterations: int = 1) -> tuple[float, float]:
    """The loss on a batch, and how much the decoder's gradient weighs."""
    torch.manual_seed(0)
    sam = build_sam("vit_nano", base.checkpoint)
    prepare(sam, FROZEN)
    model = PromptedSam(sam, FROZEN, SegmentationLoss(), sub_iterations=sub_iterations)
    model.train()
    samples = PromptedSamples(FakeObjects(), 64, PromptMix(point=1.0), n_objects=n_objects, seed=0)
    parts = model(collate([samples[index] for index in images]))
    parts["total"].backward()
    norm = sum(float(p.grad.square().sum()) for p in sam.mask_decoder.parameters() if p.grad is not None)
    assert all(p.grad is None for p in sam.image_encoder.parameters())
    return parts["total"].item(), norm


def test_every_image_and_object_of_a_batch_counts(base: ResolvedSam) -> None:
    together, _ = loss_of(base, [0, 1, 2], 16)
    apart = [loss_of(base, [index], 16)[0] for index in (0, 1, 2)]
    assert together == pytest.approx(np.mean(apart), rel=1e-4)
    sample = PromptedSamples(FakeObjects(), 64, PromptMix(point=1.0), n_objects=16, seed=0)[2]
    assert len(sample.targets) == 3
    assert sorted(index for indices, _ in sample.groups for index in indices.tolist()) == [0, 1, 2]


def test_mirroring_does_not_decide_the_kind_of_prompt() -> None:
    mix = PromptMix(box=1.0, point=1.0)
    mirrored = PromptedSamples(FakeObjects(60), 64, mix, n_objects=16, seed=1, flip=0.5)
    plain = PromptedSamples(FakeObjects(60), 64, mix, n_objects=16, seed=1)
    has_box: dict[bool, set[bool]] = {True: set(), False: set()}
    for index in range(60):
        sample = mirrored[index]
        is_mirrored = not torch.equal(sample.image, plain[index].image)
        first_object = next(prompts for indices, prompts in sample.groups if 0 in indices)
        has_box[is_mirrored].add(first_object.boxes is not None)
    assert has_box == {True: {True, False}, False: {True, False}}


class OneWithBorder(FakeObjects):
    """One image whose pixels around the first object are to be ignored."""

    def __getitem__(self, index: int) -> SegmentationSample:
        sample = super().__getitem__(index)
        return replace(sample, ignored=sample.labels == 0)


def test_ignored_pixels_count_neither_in_training_nor_in_evaluation(base: ResolvedSam, tmp_path: Path) -> None:
    sam = build_sam(base.model_type, base.checkpoint, torch.device("cpu"))
    item = PromptedSamples(OneWithBorder(1), 64, PromptMix(box=1.0), n_objects=1, seed=0)[0]
    assert bool((item.targets[0][item.valid > 0] == 1).all()), "nothing but the object is left to be learnt"
    _, predictions = predict_objects(sam, OneWithBorder(1), 0, n_objects=1)
    outside = OneWithBorder(1)[0].labels == 0
    assert not any(bool((objects.masks & outside).any()) for objects in predictions.values())


def test_seed_epoch_and_index_decide_what_is_flipped(tmp_path: Path) -> None:
    def pattern(flip: float, seed: int = 1, epoch: int = 0) -> list[bool]:
        cache = EmbeddingCache(tmp_path, "signature")
        samples = PromptedSamples(
            FakeObjects(40), 64, PromptMix(box=1.0), n_objects=1, seed=seed, flip=flip, cache=cache
        )
        samples.set_epoch(epoch)
        assert all(samples[index].key is None for index in (0, 1, 2)), "half of the images are not those in the files"
        return [not torch.equal(samples[index].image, plain[index].image) for index in range(40)]

    plain = PromptedSamples(FakeObjects(40), 64, PromptMix(box=1.0), n_objects=1, seed=1)
    first = pattern(0.5)
    assert 10 < sum(first) < 30
    assert pattern(0.5) == first != pattern(0.5, seed=2)
    assert pattern(0.5, epoch=1) != first
    assert sum(pattern(1.0)) == 40


def test_objects_of_an_image_are_bounded_and_drawn_anew_each_epoch() -> None:
    samples = PromptedSamples(FakeObjects(), 64, PromptMix(box=1.0), n_objects=1, seed=0)
    seen = set()
    for epoch in range(8):
        samples.set_epoch(epoch)
        sample = samples[2]
        assert len(sample.targets) == 1 and sum(len(indices) for indices, _ in sample.groups) == 1
        seen.add(float(sample.targets.sum()))
        again = samples[2]
        assert torch.equal(again.groups[0][1].boxes, sample.groups[0][1].boxes)
    assert len(seen) > 1


def test_further_passes_see_a_correcting_point_and_the_mask(base: ResolvedSam, monkeypatch: pytest.MonkeyPatch) -> None:
    from thfuse_sam.finetune import model as model_module

    calls = []
    original = model_module.decode

    def spy(sam: Any, embedding: torch.Tensor, prompts: Any, *, multimask: bool) -> Any:
        logits, ious = original(sam, embedding, prompts, multimask=multimask)
        calls.append((prompts, multimask, logits.detach(), ious.detach()))
        return logits, ious

    monkeypatch.setattr(model_module, "decode", spy)
    loss_of(base, [2], 16, sub_iterations=3)
    assert [multimask for _, multimask, _, _ in calls] == [True, False, False]
    assert [prompts.points.shape for prompts, *_ in calls] == [(3, 1, 2), (3, 2, 2), (3, 3, 2)]
    targets = PromptedSamples(FakeObjects(), 64, PromptMix(point=1.0), n_objects=16, seed=0)[2].targets
    for (_, _, logits, ious), (after, *_) in itertools.pairwise(calls):
        mask = logits[torch.arange(3), ious.argmax(1)]
        assert torch.equal(after.masks[:, 0], mask)
        for index in range(3):
            (x, y), label = after.points[index, -1].tolist(), int(after.labels[index, -1])
            column, row = int(x // 4), int(y // 4)
            assert bool(targets[index, row, column] > 0.5) == bool(label)
            assert bool(mask[index, row, column] > 0) != bool(label)


# Runs


def test_run_writes_its_files_and_learns(base: ResolvedSam, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, epochs=4, images=3, val=3, lr=3e-3)
    result, task = trainer.run(), trainer.task
    assert (result.epoch, result.step, result.interrupted) == (4, 8, False)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {
        "best.safetensors",
        "latest.safetensors",
        "latest.pth",
        "epoch2.safetensors",
        "epoch4.safetensors",
        "finetune_options.json",
        "evaluation.json",
        "train_log.csv",
    }
    rows = read_log(tmp_path)
    losses = [float(row["train/total"]) for row in rows]
    assert losses[-1] < 0.9 * losses[0]
    ious = [(float(row["val/point_iou"]) + float(row["val/box_iou"])) / 2 for row in rows]
    assert result.best == pytest.approx(1 - max(ious), abs=1e-4)
    figures = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert figures["fine_tuned"] == task.fine_tuned and figures["zero_shot"] == task.zero_shot
    assert mean_iou(task.fine_tuned) == pytest.approx(1 - result.best, abs=1e-6)
    assert json.loads((tmp_path / "finetune_options.json").read_text(encoding="utf-8"))["note"] == "kept"
    loaded = load_sam(resolve_tuned("auto", result.best_file, base=base.checkpoint))
    reloaded = evaluate_sam(loaded, FakeObjects(3), n_objects=16, seed=7)
    assert reloaded == task.fine_tuned


@pytest.mark.parametrize(
    ("adaptation", "settings"),
    [
        (FROZEN, {"sub_iterations": 2, "schedule": "plateau"}),
        (Adaptation(lora=LoraSettings(2, 4.0, dropout=0.3)), {"accumulate": 2, "batch_size": 1, "flip": 0.5}),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    base: ResolvedSam, tmp_path: Path, adaptation: Adaptation, settings: dict[str, Any]
) -> None:
    make_trainer(base, tmp_path / "whole", adaptation=adaptation, **settings).run()
    Loss.calls, Loss.interrupt_at = 0, 9
    stopped = make_trainer(base, tmp_path / "parts", adaptation=adaptation, **settings).run()
    assert stopped.interrupted and 0 < stopped.step < 6
    Loss.interrupt_at = None
    again = make_trainer(base, tmp_path / "parts", adaptation=adaptation, **settings)
    torch.rand(3)
    again.resume(stopped.latest)
    assert not again.run().interrupted
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_resume_refuses_another_run(base: ResolvedSam, tmp_path: Path) -> None:
    make_trainer(base, tmp_path, max_steps=1, epochs=1).run()
    with pytest.raises(UsageError, match=r"`flip` 0\.0, this command has 0\.5"):
        make_trainer(base, tmp_path, flip=0.5).resume(tmp_path / "latest.pth")
    with pytest.raises(UsageError, match="other parts"):
        make_trainer(base, tmp_path, adaptation=Adaptation()).resume(tmp_path / "latest.pth")


def test_resume_says_what_is_not_what_it_was(
    base: ResolvedSam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(base, tmp_path, max_steps=1).run()
    caplog.clear()
    trainer = make_trainer(base, tmp_path, lr=1e-2, save_interval=5)
    trainer.resume(trainer.latest)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "`lr` was 0.001, now it is 0.01" in warnings[0]


def as_earlier_versions_wrote_it(path: Path) -> None:
    """Rewrite a checkpoint the way fine-tuning did before it shared its trainer."""
    content = torch.load(path, weights_only=True)
    names = {"accumulate": "virtual_batch_size", "plateau_patience": "patience", "val_interval": "test_interval"}
    former = {names.get(key, key): value for key, value in content["training"].items()}
    content["training"] = {key: value for key, value in former.items() if key not in ("processes", "ema_decay")}
    plateau, stale = content["scheduler"]["plateau"], content["scheduler"]["stale"]
    content["scheduler"] = {"plateau": plateau, "stale": stale, **content.pop("task")}
    del content["scaler"], content["raw_weights"]
    torch.save(content, path)


def test_a_state_of_an_earlier_version_is_gone_on_with(base: ResolvedSam, tmp_path: Path) -> None:
    make_trainer(base, tmp_path / "whole", schedule="plateau").run()
    latest = make_trainer(base, tmp_path / "parts", schedule="plateau", max_steps=3).run().latest
    zero_shot = checkpoints.load_checkpoint(latest).task["zero_shot"]
    as_earlier_versions_wrote_it(latest)
    again = make_trainer(base, tmp_path / "parts", schedule="plateau")
    again.resume(latest)
    assert again.task.zero_shot == zero_shot
    again.run()
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_the_average_of_the_trained_weights_is_what_is_kept_and_evaluated(base: ResolvedSam, tmp_path: Path) -> None:
    settings = {"ema_decay": 0.9, "epochs": 3, "lr": 1e-2}
    make_trainer(base, tmp_path / "whole", **settings).run()
    stopped = make_trainer(base, tmp_path / "parts", **settings, max_steps=4).run()
    again = make_trainer(base, tmp_path / "parts", **settings)
    again.resume(stopped.latest)
    result = again.run()
    saved, whole = (checkpoints.load_checkpoint(tmp_path / name / "latest.pth") for name in ("parts", "whole"))
    assert same(saved.weights, whole.weights) and same(saved.raw_weights, whole.raw_weights)
    assert not same(saved.weights, saved.raw_weights)
    assert same(load_file(tmp_path / "parts" / "latest.safetensors"), saved.weights)
    assert mean_iou(again.task.fine_tuned) == pytest.approx(1 - result.best, abs=1e-6)


def test_the_image_encoder_is_compiled_in_place(
    base: ResolvedSam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(call) or call)
    trainer = make_trainer(base, tmp_path, compile=True, epochs=1)
    trainer.run()
    assert compiled == [trainer.task.sam.image_encoder._call_impl]
    assert all("_orig_mod" not in name for name in checkpoints.load_checkpoint(tmp_path / "latest.pth").weights)


@pytest.mark.gpu
def test_fp16_trains_and_keeps_the_scale_of_the_loss(base: ResolvedSam, tmp_path: Path) -> None:
    result = make_trainer(base, tmp_path, precision="fp16", device="cuda").run()
    scaler = checkpoints.load_checkpoint(result.latest).scaler
    assert scaler["scale"] > 0
    again = make_trainer(base, tmp_path, precision="fp16", epochs=3, device="cuda")
    again.resume(result.latest)
    assert again.run().epoch == 3


def test_cached_run_equals_itself_and_computes_each_embedding_once(
    base: ResolvedSam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thfuse_sam.finetune import evaluation, model

    encoded = []
    for module in (model, evaluation):
        original = module.encode
        monkeypatch.setattr(
            module, "encode", lambda sam, images, run=original: encoded.append(len(images)) or run(sam, images)
        )
    first = make_trainer(base, tmp_path / "one", cache=tmp_path / "cache")
    first.run()
    assert sum(encoded) == 5  # of which two are for validation too
    second = make_trainer(base, tmp_path / "two", cache=tmp_path / "cache")
    second.run()
    assert sum(encoded) == 5
    assert first.task.fine_tuned == second.task.fine_tuned
    assert_same_end(tmp_path / "one", tmp_path / "two")
    without = make_trainer(base, tmp_path / "three")
    without.run()
    assert mean_iou(without.task.fine_tuned) == pytest.approx(mean_iou(first.task.fine_tuned), abs=0.05)


def test_mirrored_images_are_trained_on_and_not_kept(base: ResolvedSam, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path / "run", cache=tmp_path / "cache", val=2, epochs=1, flip=0.999)
    plain = FakeObjects()[2]
    sample = trainer.task.train_set[2]
    frame = Frame.of(plain.shape, 64)
    assert sample.image is not None
    assert torch.equal(sample.image, resize_image(np.ascontiguousarray(plain.image[:, ::-1]), frame))
    wanted, _ = low_resolution_targets(object_masks(flipped(plain), plain.object_ids), frame)
    assert torch.equal(sample.targets, wanted)
    trainer.run()
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2, "those of the validation images"


def test_composed_images_are_not_kept(base: ResolvedSam, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path / "run", cache=tmp_path / "cache", val=None, epochs=1)
    trainer.task.train_set.dataset.on_disk = False
    trainer.run()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_cache_of_a_trained_encoder_is_refused(base: ResolvedSam, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be kept"):
        make_trainer(base, tmp_path, adaptation=Adaptation(), cache=tmp_path)


def test_loss_that_is_not_finite_keeps_the_last_good_checkpoint(base: ResolvedSam, tmp_path: Path) -> None:
    make_trainer(base, tmp_path, epochs=1).run()
    before = (tmp_path / "latest.pth").read_bytes()
    trainer = make_trainer(base, tmp_path, epochs=3)
    trainer.resume(tmp_path / "latest.pth")
    Loss.calls, Loss.nan_at = 0, 3
    with pytest.raises(TrainingError, match=r"step [45]: total not finite on image\d"):
        trainer.run()
    assert (tmp_path / "latest.pth").read_bytes() == before


def test_early_stopping(base: ResolvedSam, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = make_trainer(base, tmp_path, epochs=50, lr=1e-12, early_stopping=2, mix=PromptMix(box=1.0)).run()
    assert 2 < result.epoch < 6
    assert "no better score in 2 evaluations" in caplog.text


def test_without_validation_the_training_loss_decides(base: ResolvedSam, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, val=None)
    result = trainer.run()
    assert result.best == pytest.approx(min(float(row["train/total"]) for row in read_log(tmp_path)), rel=1e-4)
    assert trainer.task.zero_shot == trainer.task.fine_tuned == {} and result.best_file.is_file()


def test_evaluations_keep_their_interval(base: ResolvedSam, tmp_path: Path) -> None:
    make_trainer(base, tmp_path, epochs=5, val_interval=2).run()
    assert [bool(row["val/box_iou"]) for row in read_log(tmp_path)] == [False, True, False, True, True]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1]),
        ("polynomial", [0.5, 1, 1, 0.75**0.9, 0.5**0.9]),
        ("cosine", [0.5, 1, 1, None, 0.505]),
    ],
)
def test_schedules(schedule: Schedule, expected: list[float | None]) -> None:
    settings = FinetuneSettings(schedule=schedule, lr=1.0, warmup_steps=2)
    rates = [learning_rate(settings, step, 6) for step in range(5)]
    for rate, wanted in zip(rates, expected, strict=True):
        assert wanted is None or rate == pytest.approx(wanted)
    assert learning_rate(settings, 4, 6, plateau_scale=0.1) == rates[4], "only the plateau schedule follows the plateau"


def test_bfloat16_trains(base: ResolvedSam, tmp_path: Path) -> None:
    result = make_trainer(base, tmp_path, precision="bf16", epochs=1).run()
    assert math.isfinite(result.best) and result.step == 3
    stored = checkpoints.load_checkpoint(tmp_path / "latest.pth").weights
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float32}


def test_results_do_not_depend_on_how_many_objects_go_at_once(base: ResolvedSam) -> None:
    sam = build_sam("vit_nano", base.checkpoint)
    one, many = (evaluate_sam(sam, FakeObjects(3), n_objects=n, seed=1) for n in (1, 16))
    assert one["box"]["objects"] == many["box"]["objects"] == 6
    for kind in one:
        assert one[kind] == pytest.approx(many[kind], abs=1e-3)
    assert all(np.isfinite(figures[ESTIMATE]) for figures in one.values())
    table = result_table({"zero-shot": one, "fine-tuned": many})
    assert "estimate" not in table
    assert table.splitlines()[0] == "| prompt | figure | zero-shot | fine-tuned |"
    assert "| box | boundary IoU |" in table and "| point | AP50 |" in table


@pytest.mark.parametrize(("before", "after", "expected"), [(0.5, 0.7, 0.55), (0.5, 0.1, 0.0), (0.2, 0.95, 0.99)])
def test_threshold_moves_with_the_estimates(before: float, after: float, expected: float) -> None:
    results = [{"point": {ESTIMATE: value}, "box": {ESTIMATE: 0.0}} for value in (before, after)]
    assert fitting_threshold(0.35, *results) == pytest.approx(expected)


# Several processes


def torchrun(processes: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(HERE / "ddp_finetune.py"), *arguments],
        capture_output=True, text=True, env=environment, timeout=600, check=False, cwd=HERE.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(base: ResolvedSam, tmp_path: Path) -> None:
    torchrun(2, str(base.checkpoint), str(tmp_path / "two"), "2")
    torchrun(1, str(base.checkpoint), str(tmp_path / "one"), "4")
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first["weights"], second["weights"])
    assert same(first["tuned"], second["tuned"])
    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    start = build_sam("vit_nano", base.checkpoint).state_dict()
    moved = max(float((value - start[name]).abs().max()) for name, value in alone["weights"].items())
    assert moved > 1e-2
    for name, value in alone["weights"].items():
        assert torch.allclose(first["weights"][name], value, atol=1e-5), name
    assert first["best"] == pytest.approx(alone["best"], abs=1e-3)
    assert (tmp_path / "two" / "best.safetensors").is_file()
