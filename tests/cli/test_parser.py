import argparse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from thfuse_sam.cli.parser import CommandParser
from thfuse_sam.errors import UsageError
from thfuse_sam.options.fields import Options, option


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    WANTED: ClassVar = "START-END"

    @classmethod
    def parse(cls, text: str) -> "Span":
        start, end = (int(word) for word in text.split("-"))
        return cls(start, end)


@dataclass(frozen=True, kw_only=True)
class Demo(Options, group="what: all of it"):
    epochs: int = option(3, "passes of `kind`", low=1, aliases=("num_epochs", "-e"))
    lr: float = option(0.1, "100 % of the rate", above=0)
    names: tuple[str, ...] = option((), "several")
    kind: Literal["a", "b"] = option("a", "which")
    many: int | Literal["auto"] | None = option(None, "how many", low=1, default_text="as suits")
    fast: bool = option(False, "fast")
    report: bool = option(True, "report")
    resume: Path | None = option(None, "go on", bare="auto")
    weights: Mapping[str, float] = option({}, "of parts", low=0, choices=("ssim", "dice"))
    size: tuple[int, int] = option((4, 6), "height and width", low=1)
    devices: tuple[str, ...] | None = option(None, "places", separator=",", metavar="x,y")
    spans: tuple[tuple[Span, ...], ...] = option((), "spans of one thing", metavar="SPAN")


def make_parser() -> CommandParser[Demo]:
    return CommandParser("demo.py", "A command.", Demo, dry_run="print the plan")


def parse(*argv: str) -> Demo:
    return make_parser().parse_command(argv).options


def test_each_kind_of_value() -> None:
    assert parse() == Demo()
    given = parse(
        *[
            "-e",
            "5",
            "--lr",
            "1e-2",
            "--names",
            "x",
            "y",
            "--names",
            "z",
            "--kind",
            "b",
            "--many",
            "auto",
            "--fast",
            "--no-report",
            "--resume",
        ],
        *[
            "--weights",
            "ssim=2",
            "--size",
            "1",
            "2",
            "--devices",
            "a,b",
            "--spans",
            "1-2",
            "3-4",
            "--spans",
            "5-6",
            "--weights",
            "dice=0",
        ],
    )
    assert (given.epochs, given.lr, given.names, given.kind, given.many) == (5, 0.01, ("x", "y", "z"), "b", "auto")
    assert (given.fast, given.report, given.resume) == (True, False, Path("auto"))
    assert (given.weights, given.size, given.devices) == ({"ssim": 2.0, "dice": 0.0}, (1, 2), ("a", "b"))
    assert given.spans == ((Span(1, 2), Span(3, 4)), (Span(5, 6),))
    assert parse("--num_epochs=7").epochs == 7 and parse("--many", "4").many == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "`epochs` 0: must be a whole number of at least 1"),
        (["-e", "x"], "`epochs` x: must be a whole number of at least 1"),
        (["--lr", "-1"], "`lr` -1: must be a number above 0"),
        (["--kind", "c"], "`kind` c: must be one of a, b"),
        (["--many", "all"], "`many` all: must be a whole number of at least 1 or auto"),
        (["--weights", "ssim=1", "loss=2"], "`weights` loss=2: must be NAME=VALUE, NAME one of ssim, dice"),
        (["--weights", "ssim=-1"], "VALUE a number of at least 0"),
        (["--weights", "ssim"], "`weights` ssim: must be NAME=VALUE"),
        (["--size", "1", "0"], "`size` 0: must be a whole number of at least 1"),
        (["--size", "1"], "--size: expected 2 arguments, as in --size SIZE SIZE"),
        (["--lr"], "--lr: expected one argument, as in --lr LR"),
        (["--epo", "1"], "did you mean --epochs?"),
        (["--devices", "a,,b"], "`devices` a,,b: must be values separated by ','"),
        (["--spans", "1-2", "3"], "`spans` 3: must be START-END"),
        (["--epoch", "1"], "did you mean --epochs?"),
    ],
)
def test_wrong_values_say_what_is_wanted(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*argv)
    assert message in str(caught.value) and str(caught.value).lower().endswith("see demo.py --help")


def test_a_required_option() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Required(Options):
        image: Path = option(MISSING, "an image")

    with pytest.raises(UsageError, match="`image` is required"):
        CommandParser("demo.py", "A command.", Required).parse_command([])


def test_help_is_made_of_the_fields() -> None:
    shown = " ".join(make_parser().format_help().split())
    for text in (
        "--epochs, --num_epochs, -e EPOCHS passes of --kind (default: 3)",
        "100 % of the rate",
        "how many (default: as suits)",
        "(default: 4 6)",
        "what: all of it:",
        "--report, --no-report report (default: on)",
    ):
        assert text in shown
    assert "None" not in shown and "False" not in shown


def test_a_command_line_can_be_typed_again() -> None:
    command = make_parser().parse_command(["--names", "a b", "--dry_run", "--debug"])
    assert command.text == "python demo.py --names 'a b' --dry_run --debug"
    assert command.dry_run and command.debug


def test_dashes_in_names_are_underscores() -> None:
    assert parse("--num-epochs", "5", "--names", "a-b") == Demo(epochs=5, names=("a-b",))
    assert parse("--num-epochs=5", "--no-report") == Demo(epochs=5, report=False)
    with pytest.raises(UsageError, match="unrecognized arguments: --no-epochs"):
        parse("--no-epochs")


# Option files


def read(tmp_path: Path, text: str, *argv: str) -> Demo:
    path = tmp_path / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return parse("--config", str(path), *argv)


def test_config_sets_options_and_the_command_line_goes_before_it(tmp_path) -> None:
    text = "num_epochs: 5\nnames: [x, y]\nfast: true\nkind: b\nweights: {ssim: 2}\nlr: 1e-3\n"
    options = read(tmp_path, text)
    assert (options.epochs, options.names, options.fast, options.kind) == (5, ("x", "y"), True, "b")
    assert (options.weights, options.lr) == ({"ssim": 2.0}, 0.001)
    options = read(tmp_path, text, "--epochs", "9", "--names", "z")
    assert (options.epochs, options.names) == (9, ("z",))
    options = read(tmp_path, "names: one\nfast: false\nreport: false\nkind: null\nspans: [[1-2, 3-4], 5-6]\n")
    assert (options.names, options.fast, options.report, options.kind) == (("one",), False, False, "a")
    assert options.spans == ((Span(1, 2), Span(3, 4)), (Span(5, 6),))
    assert read(tmp_path, "").epochs == 3
    assert read(tmp_path, "resume: models/latest.pth").resume == Path("models/latest.pth")
    assert read(tmp_path, "resume: true").resume == Path("auto")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 5", ("unknown option 'epoch'", "did you mean epochs?", "The known options are")),
        ("config: other.yaml", ("unknown option 'config'",)),
        ("epochs: many", ("`epochs` many", "a whole number")),
        ("epochs: [1, 2]", ("`epochs` [1, 2]", "one value")),
        ("size: [1]", ("`size`",)),
        ("devices: []", ("`devices` []", "at least one value")),
        ("weights: {}", ("`weights` {}", "at least one value")),
        ("kind: off", ("`kind` false", "quotes")),
        ("resume: false", ("`resume` false", "quotes")),
        ("fast: 3", ("fast", "true or false")),
        ("- epochs", ("not a mapping",)),
        ("epochs: [", ("not YAML",)),
        ("epochs: !!python/object/apply:os.getcwd []", ("not YAML",)),
    ],
)
def test_wrong_config_is_one_line_that_names_the_file(tmp_path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    for word in (f"`config` {tmp_path / 'options.yaml'}", *words):
        assert word in str(caught.value)


def test_missing_config_is_one_line() -> None:
    with pytest.raises(UsageError, match="No such file"):
        parse("--config", "none.yaml")


def test_every_option_of_a_class_has_an_action() -> None:
    actions: dict[str, Any] = {action.dest: action for action in make_parser()._actions}
    assert set(actions) == {*Demo.__dataclass_fields__, "help", "config", "dry_run", "debug"}
    assert all(action.default is argparse.SUPPRESS for action in actions.values())
