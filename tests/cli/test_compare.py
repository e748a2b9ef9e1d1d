import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.cli import commands as cli_commands
from thfuse_sam.images import write_image

main = cli_commands.compare.main


@pytest.fixture
def dataset(make_pairs, monkeypatch, tmp_path) -> Path:
    root = make_pairs(("a/1", "b", "c"))
    shutil.copytree(root / "ir", tmp_path / "work" / "warm")
    monkeypatch.chdir(tmp_path / "work")
    return root


def run(dataset: Path, *argv: str) -> int:
    return main(["--dataset_path", str(dataset), *argv])


def methods() -> list[dict[str, str]]:
    with Path("comparison/comparison.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report_data() -> dict:
    text = Path("comparison/report/data.js").read_text(encoding="utf-8")
    return json.loads(text[len("window.REPORT = ") : -2])


def test_folders_programs_and_rules_in_one_table(dataset, capsys) -> None:
    code = "import shutil, sys; shutil.copy(sys.argv[2], sys.argv[3])"
    program = f"copy={sys.executable} -c '{code}' {{ir}} {{vi}} {{out}}"
    Path("labels").mkdir()
    Path("labels/b.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    targets = ["--targets", "labels"]
    assert run(dataset, "--methods", "Warm=warm", f"Seen={dataset / 'vi'}", "--run", program, *targets) == 0
    out = capsys.readouterr().out
    assert "Means over 3 of 3 pairs." in out and "| Warm | 0 | all |" in out and "s/pair" in out
    rows = methods()
    assert {row["method"] for row in rows} == {"Warm", "Seen", "copy", "avg", "max", "LP", "GFF"}
    ranks = [float(row["mean_rank"]) for row in rows]
    assert ranks == sorted(ranks)
    assert all(float(row["rank_low"]) <= float(row["mean_rank"]) <= float(row["rank_high"]) for row in rows)
    by_name = {row["method"]: row for row in rows}
    assert by_name["copy"]["SSIM"] == by_name["Seen"]["SSIM"] and float(by_name["copy"]["seconds"]) > 0
    assert by_name["Warm"]["seconds"] == ""
    data = report_data()
    assert [method["name"] for method in data["methods"]][:3] == ["Warm", "Seen", "copy"]
    assert len(data["pairs"]) == 3 and len(data["pairs"][0]["fused"]) == 7
    assert "thfuse-compare" in dict(data["facts"])["command"]


def test_a_foreign_folder_in_place_of_the_report_is_told_before_programs_run(dataset, capsys) -> None:
    Path("comparison/report").mkdir(parents=True)
    Path("comparison/report/mine.txt").touch()
    program = f'late={sys.executable} -c \'open("ran", "w")\' {{ir}} {{vi}} {{out}}'
    assert run(dataset, "--no-rules", "--run", program) == 1
    assert "report" in capsys.readouterr().err and not Path("ran").exists()


def test_what_a_method_lacks_no_row_has(dataset, capsys) -> None:
    Path("warm/b.png").unlink()
    write_image(Path("warm/c.png"), np.zeros((32, 49), np.uint8))
    assert run(dataset, "--methods", f"Seen={dataset / 'vi'}", "warm", "--no-rules") == 1
    streams = capsys.readouterr()
    assert "Means over 1 of 3 pairs." in streams.out
    assert "2 pairs left out of every row: b (warm: no fused image); c (warm: " in streams.out
    assert "49x32" in streams.out and "warm: has 1 of 3 pairs" in streams.err
    data = report_data()
    assert [pair["name"] for pair in data["pairs"]] == ["a/1"] and data["sharedPairs"] == 1
    assert [name for name, _ in data["leftOut"]] == ["b", "c"]


def test_a_bad_pair_and_an_unreadable_image_are_left_out(dataset, capsys) -> None:
    write_image(dataset / "ir" / "b.png", np.zeros((31, 48), np.uint8))
    content = Path("warm/c.png").read_bytes()
    Path("warm/c.png").write_bytes(content[: len(content) - 40])
    assert run(dataset, "--methods", "warm", "--no-report") == 1
    out = capsys.readouterr().out
    assert "Means over 1 of 3 pairs." in out and "b (pair 'b'" in out and "c (" in out
    assert not Path("comparison/report").exists()


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        ([], 2, ("--methods", "--run")),
        (["--methods", "absent"], 2, ("--methods absent", "no such folder")),
        (["--methods", "avg=warm"], 2, ("'avg' is taken",)),
        (["--methods", "warm", "--run", "warm=true {ir} {vi} {out}"], 2, ("'warm' is taken",)),
        (["--run", "report=true {ir} {vi} {out}"], 2, ("--run report", "taken")),
        (["--run", "x=true {ir}"], 2, ("--run", "placeholders")),
        (["--run", "x=absent-program {ir} {vi} {out}"], 2, ("--run x", "cannot be started")),
        (["--run", "x=true {ir} {vi} {out}"], 2, ("--run x", "names and sizes")),
        (["--run", "x=false {ir} {vi} {out}"], 1, ("--run x", "exit status 1", "x.log")),
        (["--methods", "warm", "--targets", "absent"], 2, ("--targets absent",)),
    ],
)
def test_wrong_options_are_one_line(dataset, capsys, argv: list[str], status: int, words: tuple[str, ...]) -> None:
    assert run(dataset, "--no-rules" if "avg" not in " ".join(argv) else "--rules", *argv) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if "fuses 3 pairs" not in line]
    assert len(lines) == 1 and lines[0].startswith("thfuse-compare: error: "), lines
    assert all(word in lines[0] for word in words), lines[0]


def test_no_input_image_can_be_replaced(dataset, capsys) -> None:
    shutil.copytree("warm", "comparison/max")
    assert run(dataset, "--methods", "comparison/max", "--no-rules", "--no-report") == 0
    assert run(dataset, "--methods", "Mine=comparison/max") == 2
    assert "would lie among its results" in capsys.readouterr().err
    arguments = ["--methods", "warm", "--output_dir", str(dataset), "--no-rules", "--run", "vi=true {ir} {vi} {out}"]
    assert run(dataset, *arguments) == 2
    assert len(list(dataset.rglob("*.png"))) == 6
