"""A report replaces the former one as a whole or not at all, and no text of its data can become part of the page."""

import json
import math
from pathlib import Path

import pytest

from thfuse_sam.errors import OutputError
from thfuse_sam.report.page import DATA, data_script, replacing, require_replaceable, write_page
from thfuse_sam.report.run_facts import headline


def content(script: str) -> dict:
    assert script.startswith("window.REPORT = ") and script.endswith(";\n")
    return json.loads(script[len("window.REPORT = ") : -2])


def test_data_comes_back_and_holds_nothing_that_ends_a_script() -> None:
    evil = "</script><img src=x onerror=alert(1)> & <!-- \u2028 \u2029 ' \" \\ ü"
    script = data_script({"name": evil, "values": [1.0, 2, math.nan, math.inf], "list": (True, None)})
    assert content(script) == {"name": evil, "values": [1.0, 2, None, None], "list": [True, None]}
    assert not set("<>&\u2028\u2029") & set(script)


@pytest.mark.parametrize("kind", ["fusion", "training", "precompute", "finetune"])
def test_page_needs_nothing_from_outside_its_folder(kind, tmp_path) -> None:
    page = write_page(tmp_path, kind, [("command", "x")], {})
    html = page.read_text(encoding="utf-8")
    for name in [line.split('"')[1] for line in html.splitlines() if line.startswith("<script src=")]:
        assert (tmp_path / name).is_file()
    for path in tmp_path.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "innerHTML" not in text, path.name


def test_replaces_an_earlier_report_and_nothing_else(tmp_path) -> None:
    folder = tmp_path / "report"
    for text in ("first", "second"):
        with replacing(folder) as staging:
            (staging / DATA).write_text(text)
            (staging / f"{text}.txt").touch()
        assert sorted(path.name for path in folder.iterdir()) == [DATA, f"{text}.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (folder / DATA).unlink()
    with pytest.raises(OutputError, match="other files"):
        require_replaceable(folder)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is"):
        require_replaceable(tmp_path / "file")


def test_after_an_error_the_earlier_report_stays(tmp_path) -> None:
    folder = tmp_path / "report"
    with replacing(folder) as staging:
        (staging / DATA).write_text("first")
    with pytest.raises(ZeroDivisionError), replacing(folder) as staging:
        (staging / DATA).write_text("second")
        raise ZeroDivisionError
    assert (folder / DATA).read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError), replacing(Path(tmp_path / "file" / "report")):
        pass


def test_headline_is_the_start_of_the_facts_that_matter() -> None:
    facts = [("command", "python x"), ("network", "net, 3 parameters"), ("masks", "none; because"), ("time", "now")]
    assert headline(facts) == ["net, 3 parameters", "masks: none", "now"]
