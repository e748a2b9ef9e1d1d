import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import metric_reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """Run the script on one pair: infrared 0 and 3, visible 1 and 8, in equal halves."""
    for modality, values in (("ir", (0, 3)), ("vi", (1, 8))):
        (tmp_path / modality).mkdir()
        image = np.repeat(np.array(values, dtype=np.uint8), 50).reshape(10, 10)
        assert cv2.imwrite(str(tmp_path / modality / "one.png"), image)

    def run_with(cases):
        path = tmp_path / "cases.json"
        path.write_text(json.dumps(cases), encoding="utf-8")
        return metric_reference.main(["--data_dir", str(tmp_path), "--cases", str(path)])

    return run_with


def test_right_values_pass_and_are_printed(run, capsys):
    # The means 0.5 and 5.5 are rounded to even: 0 and 6, standard deviation 3. The maxima are 1 and 8: 3.5.
    assert run({"avg": {"one.png": {"SD": 3.0, "EN": 1.0}}, "max": {"one.png": {"SD": 3.5, "MS_SSIM": math.nan}}}) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "0.00e+00  ok" in lines["SD"]
    assert "not compared" in lines["Nabf"]


@pytest.mark.parametrize("values", [{"SD": 3.006}, {"EN": 0.998}, {"MS_SSIM": 0.7}, {"SD": math.nan}])
def test_a_wrong_value_fails(run, capsys, values):
    assert run({"avg": {"one.png": values}}) == 1
    assert "DIFFERS  (avg one.png)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "cases",
    [{"median": {"one.png": {"SD": 3.0}}}, {"avg": {"one.png": {"FMI": 1.0}}}, {"avg": {"one.png": {}}}, {}],
)
def test_unusable_cases_are_wrong_usage(run, capsys, cases):
    with pytest.raises(SystemExit) as error:
        run(cases)
    assert error.value.code == 2
    assert "--cases" in capsys.readouterr().err


def test_the_command_runs_from_a_checkout_without_installation():
    command = [sys.executable, "-m", "benchmarks.metric_reference", "--help"]
    assert "--cases" in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
