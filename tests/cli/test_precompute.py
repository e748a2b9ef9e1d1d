"""`precompute_masks.py` from its command line: one real run of a tiny SAM, and everything a user can get wrong."""

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.commands import precompute as command
from thfuse_sam.errors import DownloadError
from thfuse_sam.files import file_sha256, partial_path
from thfuse_sam.images import read_for_sam, read_visible, write_image
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, GeneratorSettings
from thfuse_sam.sam import checkpoints
from thfuse_sam.sam.generator import AutomaticMaskGenerator, Instance
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import build_sam

main = cli_commands.precompute.main

# Few points, and thresholds that even random weights pass.
FAST = ("--points_per_side", "3", "--pred_iou_thresh", "0", "--stability_score_thresh", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised vit_nano, as a plain PyTorch file."""
    path = tmp_path_factory.mktemp("weights") / "nano.pth"
    torch.manual_seed(0)
    torch.save(build_vit_nano(64).state_dict(), path)
    return path


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a data set of two pairs, one of them with a UTF-8 name, in `data`."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(1)
    for modality in ("ir", "vi"):
        for name in ("0001", "夜/scène"):
            image = generator.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            image[8:24, 4:20] += 150
            write_image(Path("data") / modality / f"{name}.png", image)
    return tmp_path


class StubGenerator:
    """Stands in for SAM where a test is not about masks."""

    on_image: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, sam: Any, settings: GeneratorSettings, owns_sam: bool = False) -> None:
        pass

    def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Instance]:
        type(self).on_image()
        mask = image[..., 0] > 100
        return [Instance(mask, (0, 0, 1, 1), 0.9, 0.9, (0.0, 0.0), int(mask.sum()))]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[StubGenerator]:
    monkeypatch.setattr(command, "load_sam", lambda *_: None)
    monkeypatch.setattr(command, "AutomaticMaskGenerator", StubGenerator)
    monkeypatch.setattr(StubGenerator, "on_image", staticmethod(lambda: None))
    return StubGenerator


def run(checkpoint: Path, *options: str) -> int:
    return main(["--dataset_path", "data", "--sam_checkpoint", str(checkpoint), *FAST, *options])


def error_line(captured: pytest.CaptureFixture[str]) -> str:
    """The one error line, which is all that stderr may hold of the error."""
    lines = [line for line in captured.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_end_to_end(work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, "--save_instances", "--preview", "4") == 0

    tree = MaskFiles(Path("precomputed_masks"))
    assert tree.names("ir") == tree.names("vi") == tree.names("vi", INSTANCES_SUFFIX) == ["0001", "夜/scène"]
    manifest = Manifest.load(tree.root)
    assert manifest.signature.model_type == "vit_nano"
    assert manifest.signature.generator["points_per_side"] == 3
    assert manifest.counts == {"ir": 2, "vi": 2}
    # The same bytes as a generator makes that is used without the command.
    settings = dataclasses.replace(
        GENERATOR_DEFAULTS["vit_nano"], points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0
    )
    live = AutomaticMaskGenerator(build_sam("vit_nano", checkpoint, "cpu"), settings)
    made = tree.read("ir", "夜/scène", (32, 32))
    np.testing.assert_array_equal(made, live.label_map(read_for_sam(Path("data/ir/夜/scène.png"), "ir")))
    assert made.max() > 0
    assert read_visible(tree.root / "preview" / "contact_sheet.png").ndim == 3
    shown = capsys.readouterr().err
    assert "images/s" in shown
    assert "masks made: 4" in shown

    assert main(["--dataset_path", "data", "--verify", "--save_instances"]) == 0
    assert "4 of 4 images have a sound mask; no problem" in capsys.readouterr().out


def test_a_report_on_request(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, "--modality", "ir") == 0
    report = work / "precomputed_masks" / "report"
    assert not report.exists()
    # Of the whole tree, also where nothing is left to do or only a part was made.
    assert run(checkpoint, "--shard", "1/2", "--report") == 0
    assert f"report: open {Path('precomputed_masks', 'report', 'index.html')}" in capsys.readouterr().err
    data = json.loads((report / "data.js").read_text(encoding="utf-8")[len("window.REPORT = ") : -2])
    assert [(part["images"], part["masks"]) for part in data["modalities"]] == [(2, 2), (2, 1)]
    assert len(data["cards"]) == 3
    facts = dict(data["facts"])
    assert facts["command"].startswith("python precompute_masks.py --dataset_path data")
    assert "vit_nano" in facts["masks"]
    assert main(["--dataset_path", "data", "--verify", "--modality", "ir"]) == 0


def test_a_report_replaces_no_other_files(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    other = work / "precomputed_masks" / "report" / "mine.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    assert run(checkpoint, "--report") == 1
    assert "holds other files than a report" in error_line(capsys)
    assert other.read_text() == "mine" and not (work / "precomputed_masks" / "ir").exists()


def test_a_line_says_if_what_is_warm_seems_to_be_dark(
    work: Path, checkpoint: Path, stub: type[StubGenerator], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(command, "dark_segments", lambda images: looked.append(len(list(images))) or (17, 20))
    assert run(checkpoint) == 0
    assert "17 of 20 upright things" in capsys.readouterr().err and looked == [2]
    assert run(checkpoint) == 0 and looked == [2]  # nothing new
    assert run(checkpoint, "--overwrite", "--ir_polarity", "black-hot") == 0 and looked == [2]


def test_a_rerun_keeps_what_is_there(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint) == 0
    (work / "precomputed_masks" / "vi" / "0001.npy").unlink()
    capsys.readouterr()
    # How many points the decoder takes at once is no matter of the masks.
    assert run(checkpoint, "--points_per_batch", "7", "--num_workers", "0") == 0
    shown = capsys.readouterr().err
    assert "4 images, 3 with a mask in" in shown
    assert "masks made: 1" in shown


def test_nothing_to_do_but_to_tidy_builds_no_sam(work: Path, checkpoint: Path, stub: type[StubGenerator]) -> None:
    assert run(checkpoint) == 0

    def refuse() -> None:
        raise AssertionError("an image was segmented again")

    stub.on_image = staticmethod(refuse)
    of_a_killed_run = partial_path(work / "precomputed_masks" / "manifest.json")
    of_a_killed_run.touch()
    assert run(checkpoint) == 0
    assert not of_a_killed_run.exists()


def test_the_sample_set_below_the_current_folder_is_the_default(
    work: Path, checkpoint: Path, stub: type[StubGenerator]
) -> None:
    Path("datasets/sample").mkdir(parents=True)
    Path("data").rename("datasets/sample/train")
    for modality in ("ir", "vi"):
        image = Path("datasets/sample/test", modality, "0002.png")
        write_image(image, np.full((8, 8, 3), 90, np.uint8))
    assert main(["--sam_checkpoint", str(checkpoint)]) == 0
    assert MaskFiles(Path("precomputed_masks")).names("vi") == ["0001", "0002", "夜/scène"]
    assert main(["--verify"]) == 0


def test_verify_alone_takes_the_images_that_the_masks_were_made_from(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--verify"]) == 2
    assert "manifest.json: no such file" in capsys.readouterr().err
    assert run(checkpoint) == 0
    write_image(Path("more/ir/0003.png"), np.full((8, 8, 3), 90, np.uint8))
    thermal = ["--modality", "ir", "--ir_dir", "more/ir", "--sam_checkpoint", str(checkpoint), *FAST]
    assert main(thermal) == 0
    capsys.readouterr()
    assert main(["--verify"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in shown] == [
        "4 of 4 images have a sound mask; no problem",
        "1 of 1 images have a sound mask; no problem",
    ]
    Path("precomputed_masks/ir/0003.npy").unlink()
    assert main(["--verify"]) == 1
    assert "missing: " in capsys.readouterr().out
    Path("precomputed_masks/ir/0001.npy").write_bytes(b"no mask")
    assert main(["--verify"]) == 1
    assert "delete it and run precompute_masks.py" in capsys.readouterr().out


def test_auto_goes_on_with_the_model_of_the_tree(
    work: Path, stub: type[StubGenerator], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise DownloadError("asked for a download")

    monkeypatch.setattr(checkpoints, "download", refuse)
    assert main(["--dataset_path", "data"]) == 0
    assert "using the small SAM that ships (vit_nano)" in capsys.readouterr().err
    # Another time the preferred model could be had, or so a dry run thinks.
    assert main(["--dataset_path", "data", "--dry_run"]) == 0
    assert "model type: vit_nano" in capsys.readouterr().out
    assert main(["--dataset_path", "data", "--output_dir", "new", "--dry_run"]) == 0
    shown = capsys.readouterr()
    assert "model type: vit_t" in shown.out and "if the download fails" in shown.err


def test_one_modality_needs_one_folder(work: Path, checkpoint: Path, stub: type[StubGenerator]) -> None:
    options = ["--modality", "ir", "--ir_dir", "data/ir", "--sam_checkpoint", str(checkpoint)]
    assert main(options) == 0
    tree = MaskFiles(Path("precomputed_masks"))
    assert (tree.names("ir"), tree.names("vi")) == (["0001", "夜/scène"], [])
    assert main(["--modality", "ir", "--ir_dir", "data/ir", "--verify"]) == 0
    assert main(["--dataset_path", "data", "--verify"]) == 1


def test_images_without_a_partner_get_masks(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/ir/0001.png").unlink()
    assert run(checkpoint) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "without a partner" in line]
    assert len(lines) == 1 and ": 1, such as" in lines[0] and "0001.png" in lines[0]
    assert MaskFiles(Path("precomputed_masks")).names("vi") == ["0001", "夜/scène"]


def test_visible_images_without_warm_places_are_told(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*options: str) -> list[str]:
        assert main(["--sam_checkpoint", str(checkpoint), "--thermal_points", "2", "--overwrite", *options]) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "no prompts at warm places" in line]

    assert lines("--dataset_path", "data") == []
    write_image(Path("data/ir/0001.png"), np.zeros((40, 32), np.uint8))
    [line] = lines("--dataset_path", "data")
    assert "1 visible image, whose infrared images have another size" in line
    Path("data/ir/0001.png").rename("data/ir/0002.png")
    folders = ["--vi_dir", "data/vi", "--ir_dir", "data/ir"]
    [line] = lines("--modality", "vi", *folders)
    assert "1 visible image without an infrared image of the same name" in line and "0001.png" in line


def test_a_dry_run_writes_nothing(work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(work.rglob("*"))
    assert run(checkpoint, "--dry_run", "--preview", "2") == 0
    assert sorted(work.rglob("*")) == before
    shown = capsys.readouterr().out
    for expected in ("images: 4 (2 ir, 2 vi)", "to make: 4", "model type: vit_nano", "points_per_side: 3"):
        assert expected in shown


def test_a_truncated_jpeg_among_good_images(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Path("data/vi/bad.jpg")
    write_image(bad, np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    bad.write_bytes(bad.read_bytes()[:-900])
    assert run(checkpoint) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert len(failed) == 1
    assert str(bad) in failed[0]
    tree = MaskFiles(Path("precomputed_masks"))
    assert tree.names("vi") == ["0001", "夜/scène"]
    assert [failure["name"] for failure in Manifest.load(tree.root).failures] == ["bad"]
    assert main(["--dataset_path", "data", "--verify"]) == 1
    assert str(bad) in capsys.readouterr().out

    write_image(bad, np.zeros((64, 64, 3), np.uint8))
    assert run(checkpoint) == 0
    assert Manifest.load(tree.root).failures == []


def test_verify_finds_what_is_wrong(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, "--preview", "1") == 0
    tree = Path("precomputed_masks")
    (tree / "ir" / "0001.npy").unlink()
    np.save(tree / "vi" / "0001.npy", np.array([{}]), allow_pickle=True)
    np.save(tree / "ir" / "夜" / "scène.npy", np.zeros((3, 3), np.uint8))
    np.save(tree / "vi" / "extra.npy", np.zeros((3, 3), np.uint8))
    capsys.readouterr()

    assert main(["--dataset_path", "data", "--verify", "--points_per_side", "5", "--sam_model_type", "vit_b"]) == 1

    shown = capsys.readouterr().out
    for expected in ("0001.npy", "pickle", "scène.npy", "extra.npy", "points_per_side 3", "model_type vit_nano"):
        assert expected in shown
    assert shown.splitlines()[-1].endswith("1 of 4 images have a sound mask; 6 problems")
    assert "preview" not in shown


def test_verify_without_a_tree(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset_path", "data", "--verify"]) == 1
    assert "0 of 4 images" in capsys.readouterr().out
    assert not Path("precomputed_masks").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--dataset_path", "nowhere"], "nowhere"),
        (["--dataset_path", "empty"], "empty"),
        (["--ir_dir", "data/ir"], "--vi_dir"),
        (["--ir_dir", "data/ir", "--dataset_path", "data"], "--dataset_path data"),
        (["--sam_model_type", "vit_x"], "vit_x"),
        (["--modality", "uv"], "uv"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "tpu"], "--device tpu"),
        (["--points_per_side", "0"], "points_per_side"),
        (["--pred_iou_thresh", "1.5"], "pred_iou_thresh"),
        (["--stability_score_thresh", "nan"], "stability_score_thresh"),
        (["--num_workers", "-1"], "num_workers"),
        (["--unknown"], "--unknown"),
        (["--n_jobs", "0"], "n_jobs"),
        (["--shard", "0/4"], "--shard 0/4: must be I/N"),
        (["--shard", "5/4"], "--shard 5/4: must be I/N"),
        (["--shard", "2"], "--shard 2: must be I/N"),
        (["--devices", "cpu,,cpu"], "--devices cpu,,cpu"),
        (["--devices", "cpu,cuda:99"], "cuda:99"),
        (["--devices", "cpu,cpu", "--n_jobs", "2"], "--n_jobs 2 and --devices cpu,cpu: give one of the two"),
        (["--devices", "cpu,cpu", "--device", "cuda"], "--device cuda and --devices cpu,cpu: give one of the two"),
        (["--preview_dir", "sheets"], "--preview_dir sheets: give --preview with it"),
        (["--shard_size", "8", "--store", "npy"], "--shard_size 8: is for --store shards; give that"),
        (["--ray_address", "auto"], "--engine ray"),
        (["--store", "zip"], "zip"),
        (["--embeddings", "nowhere"], "nowhere"),
        (["--save_embeddings", "--crop_n_layers", "1"], "--crop_n_layers 1"),
        (["--verify", "--shard", "1/2"], "--shard"),
        (["--output_dir", "data"], "would lie among its results"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    work: Path, checkpoint: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "empty" / "ir").mkdir(parents=True)
    (work / "empty" / "vi").mkdir()
    own_images = [] if "--ir_dir" in options or "--dataset_path" in options else ["--dataset_path", "data"]
    assert main([*own_images, "--sam_checkpoint", str(checkpoint), *options]) == 2
    assert named in error_line(capsys)
    assert not Path("precomputed_masks").exists()


def test_a_machine_without_cuda(
    work: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(checkpoint, "--device", "cuda") == 2
    assert "--device cuda" in error_line(capsys)


def test_bad_checkpoints(work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated = work / "truncated.pth"
    truncated.write_bytes(checkpoint.read_bytes()[:10_000])
    other = work / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    for path, options in (
        (work / "missing.pth", []),
        (truncated, []),
        (other, []),
        (checkpoint, ["--sam_model_type", "vit_b"]),
    ):
        assert run(path, *options) == 1
        assert path.name in error_line(capsys)
        assert not Path("precomputed_masks").exists()


@pytest.mark.parametrize("option", ["--output_dir", "--preview_dir"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_place_of_the_output_folder(
    work: Path, checkpoint: Path, option: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    assert run(checkpoint, "--preview", "1", option, place) == 1
    assert f"{option} {Path(place)}" in error_line(capsys)
    assert Path("file").read_text(encoding="utf-8") == "mine"
    assert not Path("precomputed_masks").exists()


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_not_writable(
    work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("locked").mkdir(mode=0o500)
    assert run(checkpoint, "--output_dir", "locked/masks") == 1
    assert "not writable" in error_line(capsys)


def test_a_tree_of_other_settings_is_refused(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint) == 0
    capsys.readouterr()
    assert run(checkpoint, "--points_per_side", "5") == 2
    line = error_line(capsys)
    assert "points_per_side 3 (asked: 5)" in line
    assert "--output_dir" in line
    assert run(checkpoint, "--points_per_side", "5", "--overwrite") == 0
    manifest = json.loads(Path("precomputed_masks/manifest.json").read_text(encoding="utf-8"))
    assert manifest["signature"]["generator"]["points_per_side"] == 5


@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly(
    work: Path,
    checkpoint: Path,
    stub: type[StubGenerator],
    sent: signal.Signals,
    status: int,
    num_workers: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(sent)

    stub.on_image = staticmethod(stop)
    before = signal.getsignal(signal.SIGTERM)
    assert run(checkpoint, "--num_workers", num_workers) == status
    shown = capsys.readouterr().err
    assert "1 of 4 masks are done" in shown
    assert "goes on" in shown
    assert "Traceback" not in shown
    assert signal.getsignal(signal.SIGTERM) == before
    assert run(checkpoint) == 0
    assert "masks made: 3" in capsys.readouterr().err


def test_a_full_disk_says_how_far_it_came(
    work: Path,
    checkpoint: Path,
    stub: type[StubGenerator],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    room = 3

    def fsync(descriptor: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert run(checkpoint) == 1
    line = error_line(capsys)
    assert "No space left on device" in line
    assert "2 of 4 masks are done" in line
    assert run(checkpoint) == 0


def test_debug_shows_the_traceback(work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(work / "missing.pth", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_shows_every_generator_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in GeneratorSettings.__dataclass_fields__:
        assert re.search(rf"--{name}[ ,]", shown)
    assert "(default: 32; vit_nano 16)" in shown and "None" not in shown


def test_ray_is_asked_for_and_absent(
    work: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(checkpoint, "--engine", "ray") == 2
    assert "pip install 'th-fuse-sam[ray]'" in error_line(capsys)


def test_ray_needs_one_precision_for_all_machines(
    work: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "require_ray", lambda: None)
    assert run(checkpoint, "--engine", "ray", "--precision", "auto") == 2
    assert "--precision auto" in error_line(capsys)
    assert run(checkpoint, "--engine", "ray", "--devices", "cpu") == 2
    assert "--devices" in error_line(capsys)


def test_shards_of_a_job_array_make_the_whole_tree(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("1/3", "2/3", "3/3"):
        assert run(checkpoint, "--shard", part) == 0
    assert "0 images" in capsys.readouterr().err  # three parts of two pairs
    assert Manifest.load(work / "precomputed_masks").counts == {"ir": 2, "vi": 2}
    assert main(["--dataset_path", "data", "--verify"]) == 0


def test_tar_files(work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, "--store", "shards", "--preview", "2", "--save_instances") == 0
    assert list((work / "precomputed_masks" / "shards").glob("*.tar"))
    assert (work / "precomputed_masks" / "preview" / "contact_sheet.png").is_file()
    assert main(["--dataset_path", "data", "--verify", "--save_instances"]) == 0
    capsys.readouterr()
    assert run(checkpoint) == 0
    assert "kept: 4" in capsys.readouterr().err


def test_other_thresholds_from_kept_embeddings(work: Path, checkpoint: Path) -> None:
    assert run(checkpoint, "--output_dir", "first", "--save_embeddings") == 0
    assert len(list(Path("first/embeddings").rglob("*.safetensors"))) == 4
    again = ("--embeddings", "first/embeddings", "--min_mask_region_area", "3")
    assert run(checkpoint, "--output_dir", "second", *again) == 0
    assert Manifest.load(work / "second").signature.generator["from_embeddings"] == 1
    # Another precision would be another encoder.
    assert run(checkpoint, "--output_dir", "third", *again, "--precision", "bf16") == 2
    assert not Path("third").exists()


def test_another_checkpoint_is_refused_and_both_are_named(
    work: Path, checkpoint: Path, stub: type[StubGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint) == 0
    sums = [Manifest.load(work / "precomputed_masks").signature.checkpoint_sha256]
    torch.manual_seed(1)
    torch.save(build_vit_nano(64).state_dict(), work / "other.pth")
    sums.append(file_sha256(work / "other.pth"))
    capsys.readouterr()
    assert run(work / "other.pth") == 2
    line = error_line(capsys)
    assert f"checkpoint_sha256 {sums[0][:12]}... (asked: {sums[1][:12]}...)" in line


@pytest.mark.parametrize("model_type", ["auto", "vit_h"])
def test_a_dry_run_downloads_nothing(
    work: Path, model_type: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setenv("SAM_CACHE", str(work / "cache"))
    monkeypatch.delenv("THFUSE_OFFLINE", raising=False)
    monkeypatch.setattr("thfuse_sam.sam.checkpoints.download", refuse)
    monkeypatch.setattr("thfuse_sam.downloads._answers", refuse)
    assert main(["--dataset_path", "data", "--sam_model_type", model_type, "--dry_run", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert f"model type: {'vit_t' if model_type == 'auto' else model_type}" in shown.out
    assert "would first download it" in shown.err
    assert not (work / "cache").exists()


@pytest.mark.parametrize(
    ("images", "memory", "options", "expected"),
    [
        (400, 2**40, [], 8),
        (40, 2**40, [], 2),
        (31, 2**40, [], 1),
        (400, 3.5 * 2**30, [], 3),
        (400, 0, [], 1),  # not known
        (400, 2**40, ["--n_jobs", "5"], 5),
        (400, 2**40, ["--devices", "cpu"], 1),
    ],
)
def test_processes_where_none_are_asked_for(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    memory: float,
    options: Sequence[str],
    expected: int,
) -> None:
    monkeypatch.setattr(command, "usable_cores", lambda: 8)
    monkeypatch.setattr(command, "free_ram", lambda: memory)
    given = options if "--devices" in options else ["--device", "cpu", *options]
    asked = cli_commands.precompute.build_parser().parse_command(given).options
    devices = command._share_cores(asked, command._devices(asked), images, checkpoint.stat().st_size)
    assert devices == ["cpu"] * expected


@pytest.mark.slow
def test_two_processes(work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, "--output_dir", "one") == 0
    assert run(checkpoint, "--output_dir", "two", "--n_jobs", "2") == 0
    assert "cpu, cpu" in capsys.readouterr().err
    for path in Path("one").rglob("*.npy"):
        assert path.read_bytes() == (Path("two") / path.relative_to("one")).read_bytes()
