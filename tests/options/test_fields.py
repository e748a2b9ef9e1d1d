import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from thfuse_sam.errors import OptionError, ThFuseError, command_text, naming
from thfuse_sam.options.fields import Options, option, option_groups, redefault
from thfuse_sam.options.train import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Pairs(Options, group="pairs"):
    folder: Path | None = option(None, "where they are")
    kind: Literal["a", "b"] = option("a", "which")


@dataclass(frozen=True, kw_only=True)
class Demo(Pairs, group="demo"):
    kind: Literal["a", "b"] = redefault(Pairs, "kind", "b")
    epochs: int = option(3, "passes", low=1, high=9)
    lr: float = option(0.1, "rate", above=0)
    part: float = option(0, "share", low=0, below=1)
    points: int | Literal["auto"] = option("auto", "at once", low=1)
    name: str = option("x", "name", choices=("x", "y"))
    fast: bool = option(False, "fast")
    sizes: tuple[int, int] = option((1, 2), "two", low=1)
    files: tuple[Path, ...] = option((), "several")
    weights: Mapping[str, float] = option({}, "of parts", low=0, choices=("ssim", "dice"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("epochs", 0, "a whole number from 1 to 9"),
        ("epochs", 10, "a whole number from 1 to 9"),
        ("epochs", True, "a whole number"),
        ("epochs", 3.5, "a whole number"),
        ("epochs", "3", "a whole number"),
        ("epochs", None, "a whole number"),
        ("lr", 0, "a number above 0"),
        ("lr", float("inf"), "a number above 0"),
        ("lr", float("nan"), "a number above 0"),
        ("lr", "high", "a number above 0"),
        ("part", 1, "a number from 0 to below 1"),
        ("points", 0, "a whole number of at least 1 or auto"),
        ("points", "all", "a whole number of at least 1 or auto"),
        ("name", "z", "one of x, y"),
        ("kind", "c", "one of a, b"),
        ("fast", 1, "true or false"),
        ("folder", 3, "a path"),
        ("sizes", (1,), "a whole number of at least 1"),
        ("sizes", (1, 0), "a whole number of at least 1"),
        ("files", "a.png", "a path"),
        ("weights", {"other": 1}, "NAME one of ssim, dice"),
        ("weights", {"ssim": -1}, "VALUE a number of at least 0"),
        ("weights", 3, "NAME=VALUE"),
    ],
)
def test_wrong_value_names_field_value_and_what_it_must_be(name: str, value: Any, reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        Demo(**{name: value})
    assert str(caught.value).startswith(f"`{name}` {value}: must be ")
    assert reason in str(caught.value)
    assert (caught.value.name, caught.value.exit_status) == (name, 2)


def test_values_become_those_of_the_fields() -> None:
    options = Demo(folder="a", epochs=np.int64(5), lr=1, files=["x", Path("y")], weights={"ssim": 2})  # type: ignore[arg-type]
    assert options.folder == Path("a") and options.files == (Path("x"), Path("y"))
    assert Demo(folder="~/a").folder == Path.home() / "a"  # type: ignore[arg-type]
    assert type(options.epochs) is int and type(options.lr) is float and type(options.weights["ssim"]) is float
    assert Demo().weights == {} and Demo().weights is not Demo().weights


def test_another_default_keeps_help_range_and_group() -> None:
    assert (Pairs().kind, Demo().kind) == ("a", "b")
    groups = option_groups(Demo)
    assert [field.name for field in groups["pairs"]] == ["folder", "kind"]
    assert next(iter(groups["demo"])).name == "epochs"
    with pytest.raises(OptionError, match="one of a, b"):
        Demo(kind="c")  # type: ignore[arg-type]


def test_plain_options_are_as_json_has_them() -> None:
    plain = Demo(folder=Path("a"), weights={"ssim": 1}).plain()
    assert (plain["folder"], plain["sizes"], plain["weights"], plain["fast"]) == ("a", [1, 2], {"ssim": 1.0}, False)


def test_an_error_about_a_file_names_its_option() -> None:
    for message, shown in (
        ("a.png: is damaged", "`image` a.png: is damaged"),
        ("`file` a.png: is damaged", "`image` a.png: is damaged"),
        ("`other` a.png: is damaged", "`other` a.png: is damaged"),
        ("b.png: is bad", "b.png: is bad"),
    ):
        with pytest.raises(ThFuseError) as caught, naming("image", Path("a.png"), instead_of="file"):
            raise ThFuseError(message)
        assert str(caught.value) == shown


def test_errors_reach_other_processes() -> None:
    error = pickle.loads(pickle.dumps(OptionError("lr", -1, "must be a number above 0")))  # noqa: S301
    assert str(error) == "`lr` -1: must be a number above 0"


def test_a_command_to_type() -> None:
    assert command_text("run", output_dir=Path("a b"), store=None, n=3) == "`run()` `output_dir` 'a b' `n` 3"
    assert command_text("run", sizes=(1.0, 2.5), fast=True) == "`run()` `sizes` 1 2.5 `fast`"


def test_an_empty_list_is_not_taken_for_the_default() -> None:
    with pytest.raises(OptionError, match="`dataset_path`"):
        TrainOptions(dataset_path=())


def test_trained_weights_are_trained_on_with_smaller_steps() -> None:
    init = Path("weights.pth")
    assert [TrainOptions().lr, TrainOptions(init=init).lr, TrainOptions(init=init, lr=0.01).lr] == [1e-3, 1e-4, 0.01]
