"""What `import thfuse_sam` costs and offers."""

import doctest
import inspect
import pydoc
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import thfuse_sam as th
from thfuse_sam.shipped import shipped_root

PUBLIC = [name for name in th.__all__ if callable(getattr(th, name)) and name != "ThFuseError"]


def test_importing_loads_nothing_slow() -> None:
    slow = "{'torch', 'lightning_fabric', 'numpy', 'cv2', 'PIL', 'tqdm'}"
    code = f"import sys, thfuse_sam; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_name_is_there_and_described() -> None:
    assert set(th.__all__) <= set(dir(th))
    for name in PUBLIC:
        assert len(getattr(th, name).__doc__ or "") > 40, name
        assert "<function" not in pydoc.plain(pydoc.render_doc(getattr(th, name))), name
    with pytest.raises(AttributeError, match="no attribute 'fuze'"):
        th.fuze  # noqa: B018


def test_names_that_rooms_have_too_stand_for_functions() -> None:
    code = (
        "from thfuse_sam.masks import tree; import thfuse_sam.precompute.plan, thfuse_sam as th\n"
        "from thfuse_sam import finetune; import inspect, pickle; assert inspect.ismodule(tree)\n"
        "for one in (th.align, th.masks, th.metrics, th.precompute, finetune):\n"
        "    assert inspect.isfunction(one) and pickle.loads(pickle.dumps(one)) is one"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_typed(name: str) -> None:
    found = getattr(th, name)
    methods = [value for key, value in vars(found).items() if key == "__init__" or not key.startswith("_")]
    functions = [found] if inspect.isfunction(found) else [getattr(one, "__func__", one) for one in methods]
    for one in filter(inspect.isfunction, functions):
        signature = inspect.signature(one)
        assert signature.return_annotation is not inspect.Signature.empty, one
        for parameter in list(signature.parameters.values())[0 if found is one else 1 :]:
            assert parameter.annotation is not inspect.Parameter.empty or parameter.name == "self", (one, parameter)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_root().is_dir()
    options = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    runner = doctest.DocTestRunner(optionflags=options, verbose=False)
    tests = doctest.DocTestFinder().find(getattr(th, name), name, globs={})
    for one in tests:
        runner.run(one)
    assert runner.tries > 1 and not runner.failures


def test_the_guide_runs(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for modality, path in zip(("ir", "vi"), pair, strict=True):
        (tmp_path / "pairs" / modality).mkdir(parents=True)
        image = Image.open(path)
        image.save(f"{modality}.png")
        for name in ("0001", "0002"):
            image.save(tmp_path / "pairs" / modality / f"{name}.png")
    guide = Path(__file__).resolve().parents[2] / "docs" / "python.md"
    blocks = re.findall(r"<!-- runnable python -->\n((?:    .*\n|\n)+)", guide.read_text(encoding="utf-8"))
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(textwrap.dedent(block), names)  # noqa: S102  # our own guide
    assert names["fused"].shape == (240, 320, 3) and len(names["two"]) == 2 and names["labels"].max() > 0
    assert names["scores"].keys() == th.METRICS.keys()
