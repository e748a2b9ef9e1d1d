import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from thfuse_sam.cli import common
from thfuse_sam.datasets.pairs import PairSet
from thfuse_sam.errors import ThFuseError, TrainingError, UsageError
from thfuse_sam.interrupts import Terminated
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.source import NoMasks, PrecomputedMasks


def make_parser() -> common.CommandParser:
    parser = common.CommandParser("demo.py", "A command.")
    parser.add_argument("--epochs", type=common.positive_int, default=3)
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--kind", choices=("a", "b"), default="a")
    parser.add_argument("--resume", nargs="?", const="auto")
    parser.add_config_option()
    return parser


def run(argv: list[str], work=lambda options: 0) -> int:
    return common.run(make_parser(), work, argv)


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("demo.py: error: "), lines
    return lines[0]


# Errors


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "0"], ("--epochs", "'0'", "at least 1", "--help")),
        (["--epochs", "x"], ("--epochs", "'x'")),
        (["--kind", "c"], ("--kind", "'c'", "'a'")),
        (["--unheard", "1"], ("--unheard",)),
        (["--epoch", "1"], ("--epoch",)),  # no abbreviations: they change meaning as options are added
    ],
)
def test_wrong_option_is_one_line_and_status_2(capsys, argv: list[str], words: tuple[str, ...]) -> None:
    assert run(argv) == 2
    line = one_line(capsys)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("--x 1: no; give 2"), 2, "--x 1: no; give 2"),
        (TrainingError("a\n  b"), 1, "a b"),
        (OSError(28, "No space left on device", "a.png"), 1, "a.png: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.cuda.OutOfMemoryError("x"), 1, "--batch_size"),
    ],
)
def test_error_in_the_work_is_one_line(capsys, error: BaseException, status: int, message: str) -> None:
    def work(options: argparse.Namespace) -> int:
        raise error

    assert run([], work) == status
    assert message in one_line(capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_in_a_destructor_is_not_lost(capsys, number: signal.Signals, status: int) -> None:
    class Slow:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work(options: argparse.Namespace) -> int:
        thing = Slow()
        del thing
        time.sleep(60)
        return 0

    assert run([], work) == status
    one_line(capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
def test_an_interrupt_while_modules_are_imported_is_one_line() -> None:
    code = "import signal, thfuse_sam.cli; signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "interrupted\n"
    done = subprocess.run([sys.executable, "-c", "import thfuse_sam.cli; 1 / 0"], capture_output=True, check=False)
    assert done.returncode == 1 and b"ZeroDivisionError" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself")
@pytest.mark.parametrize("caught", [True, False])
def test_what_an_interrupt_left_half_built_says_nothing(capsys, monkeypatch, caught: bool) -> None:
    class Bar:
        def __init__(self) -> None:
            signal.raise_signal(signal.SIGINT)

        def __del__(self) -> None:
            raise AttributeError

    def work(options: argparse.Namespace) -> int:
        try:
            Bar()
        except KeyboardInterrupt:
            if not caught:
                raise
        return 130

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    assert run([], work) == 130
    assert seen == [] and "Traceback" not in capsys.readouterr().err


def test_an_interrupt_in_the_last_moment_is_one_line(capsys, monkeypatch) -> None:
    @contextlib.contextmanager
    def late():
        yield
        raise Terminated

    monkeypatch.setattr(common, "stop_on_interrupts", late)
    assert run([]) == 143
    assert "terminated" in one_line(capsys)


def test_other_errors_in_a_destructor_are_shown(monkeypatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    def work(options: argparse.Namespace) -> int:
        thing = Broken()
        del thing
        return 0

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    assert run([], work) == 0
    assert seen == [ZeroDivisionError]


@pytest.mark.parametrize(
    ("argv", "path"), [(["--image", "a.png"], "a.png"), (["--folders", "x", "b.png"], "b.png"), ([], "c.png")]
)
def test_an_error_about_a_file_names_its_option(capsys, argv: list[str], path: str) -> None:
    parser = make_parser()
    parser.add_argument("--image", type=Path, default=Path("c.png"))
    parser.add_argument("--folders", type=Path, nargs="+")

    def fail(options: argparse.Namespace) -> int:
        raise ThFuseError(f"{Path(path)}: is damaged; copy it again")

    assert common.run(parser, fail, argv) == 1
    option = argv[0] if argv else "--image"
    assert one_line(capsys) == f"demo.py: error: {option} {path}: is damaged; copy it again"


def test_a_misspelt_option_is_corrected(capsys) -> None:
    assert run(["--epoch=3"]) == 2
    assert "unrecognized arguments: --epoch=3; did you mean --epochs?" in one_line(capsys)
    assert run(["--entirely", "wrong"]) == 2
    assert "did you mean" not in one_line(capsys)


def test_debug_shows_the_traceback_and_a_bug_is_not_hidden(capsys) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise ThFuseError("known")

    assert run(["--debug"], fail) == 1
    assert "Traceback" in capsys.readouterr().err

    def bug(options: argparse.Namespace) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([], bug)


def test_status_of_the_work_and_of_help(capsys) -> None:
    assert run([], lambda options: 5) == 5
    assert run(["--help"]) == 0
    assert "--epochs" in capsys.readouterr().out


def test_log_lines_reach_stderr_once(capsys) -> None:
    common.show_log_lines()
    common.show_log_lines()
    common.log.info("seen")
    assert capsys.readouterr().err == "seen\n"


# Option files


def parse(tmp_path: Path, text: str, *argv: str) -> argparse.Namespace:
    path = tmp_path / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return make_parser().parse_command(["--config", str(path), *argv])


def test_config_sets_options_and_the_command_line_goes_before_it(tmp_path) -> None:
    text = "epochs: 5\nnames: [x, y]\nfast: true\nkind: b\n"
    options = parse(tmp_path, text)
    assert (options.epochs, options.names, options.fast, options.kind) == (5, ["x", "y"], True, "b")
    options = parse(tmp_path, text, "--epochs", "9", "--names", "z")
    assert (options.epochs, options.names) == (9, ["z"])
    options = parse(tmp_path, "names: {ssim: 2, other: 0.5}\nfast: false\nkind: null\n")
    assert (options.names, options.fast, options.kind) == (["ssim=2", "other=0.5"], False, "a")
    assert parse(tmp_path, "").epochs == 3
    assert parse(tmp_path, "resume: models/latest.pth").resume == "models/latest.pth"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 5", ("unknown option 'epoch'", "epochs")),
        ("config: other.yaml", ("unknown option 'config'",)),
        ("epochs: many", ("--epochs", "'many'")),
        ("fast: 3", ("fast", "true or false")),
        ("- epochs", ("not a mapping",)),
        ("epochs: [", ("not YAML",)),
        ("epochs: !!python/object/apply:os.getcwd []", ("not YAML",)),
    ],
)
def test_wrong_config_is_one_line_that_names_the_file(tmp_path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(tmp_path, text)
    for word in (str(tmp_path / "options.yaml"), *words):
        assert word in str(caught.value)


def test_missing_config_is_one_line(tmp_path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        make_parser().parse_command(["--config", str(tmp_path / "none.yaml")])


# Values and paths


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "nan"])
def test_positive_int_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        common.positive_int(text)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "x"])
def test_positive_float_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        common.positive_float(text)


@pytest.mark.parametrize("text", ["1", "-0.1", "nan"])
def test_fraction_refuses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        common.fraction(text)


def pair_options(**values: object) -> argparse.Namespace:
    return argparse.Namespace(**{"dataset_path": None, "ir_dir": None, "vi_dir": None, **values})


def test_sample_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(common, "checkout_root", lambda: tmp_path / "checkout")
    (tmp_path / "checkout" / "datasets" / "sample").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shipped = tmp_path / "checkout" / "datasets" / "sample"
    assert common.resolve_dataset_path(pair_options(), "datasets/sample") == shipped
    assert common.resolve_dataset_path(pair_options(dataset_path=Path("datasets/sample")), "x") == shipped
    assert common.resolve_dataset_path(pair_options(dataset_path=Path("mine")), "x") == Path("mine")
    assert common.resolve_dataset_path(pair_options(ir_dir=Path("a"), vi_dir=Path("b")), "datasets/sample") is None
    Path("datasets/sample").mkdir(parents=True)
    assert common.resolve_dataset_path(pair_options(), "datasets/sample") == Path("datasets/sample")


# Masks


def mask_options(*argv: str) -> argparse.Namespace:
    parser = common.CommandParser("demo.py", "A command.")
    common.add_mask_options(parser)
    return parser.parse_command(argv)


def make_tree(root: Path) -> Path:
    for modality in ("ir", "vi"):
        (root / modality).mkdir(parents=True)
    Manifest(Signature("vit_b", "00", {}, "0.1")).save(root)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_masks_by_default(here) -> None:
    plan = common.plan_masks(mask_options())
    assert plan.mode == "none" and "manifest.json" in plan.reason
    assert common.plan_masks(mask_options("--use_sam")).mode == "live"


def test_tree_in_the_default_place_is_taken(here) -> None:
    make_tree(here / "precomputed_masks")
    for argv in ([], ["--sam_checkpoint", "absent.pth"]):
        plan = common.plan_masks(mask_options(*argv))
        assert (plan.mode, plan.root) == ("precomputed", Path("precomputed_masks"))
        assert "vit_b" in plan.reason
    (here / "precomputed_masks" / "manifest.json").unlink()
    assert common.plan_masks(mask_options()).mode == "none"


def test_none_switches_the_tree_off(here) -> None:
    make_tree(here / "precomputed_masks")
    assert common.plan_masks(mask_options("--precomputed_masks_dir", "none")).mode == "none"
    assert common.plan_masks(mask_options("--precomputed_masks_dir", "none", "--use_sam")).mode == "live"
    assert common.plan_masks(mask_options("--use_sam")).mode == "live"


def test_named_tree_wins_over_sam_and_another_model_type_is_said(here) -> None:
    make_tree(here / "m")
    plan = common.plan_masks(mask_options("--precomputed_masks_dir", "m", "--use_sam", "--sam_model_type", "vit_h"))
    assert (plan.mode, plan.root) == ("precomputed", Path("m"))
    assert "made by vit_b although --sam_model_type is vit_h" in plan.reason


def test_named_tree_must_exist(here) -> None:
    with pytest.raises(UsageError, match=r"--precomputed_masks_dir absent .*precompute_masks.py"):
        common.plan_masks(mask_options("--precomputed_masks_dir", "absent"))


def test_tree_of_another_program_needs_no_manifest(here) -> None:
    (here / "m" / "ir").mkdir(parents=True)
    assert common.plan_masks(mask_options("--precomputed_masks_dir", "m")).mode == "precomputed"


def test_plan_is_one_log_line(here, capsys) -> None:
    common.show_log_lines()
    common.log_mask_plan(common.plan_masks(mask_options()), [], "")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_sources_without_sam(here, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "thfuse_sam.sam.checkpoints", None)
    pairs = PairSet([], here / "ir", here / "vi", [], [])
    build = common.build_mask_source
    cpu = torch.device("cpu")
    assert isinstance(build(common.MaskPlan("none", ""), mask_options(), cpu, pairs), NoMasks)
    tree = make_tree(here / "m")
    assert isinstance(build(common.MaskPlan("precomputed", "", tree), mask_options(), cpu, pairs), PrecomputedMasks)
    with pytest.raises(ImportError):  # so that the two above mean something
        build(common.MaskPlan("live", ""), mask_options(), cpu, pairs)
    assert json.loads((tree / "manifest.json").read_text(encoding="utf-8"))["signature"]["model_type"] == "vit_b"
