"""Compare the fusion metrics with per-image reference values of simple fusion rules.

    python -m benchmarks.metric_reference --data_dir PAIRS --cases CASES.json

`PAIRS` holds `ir/` and `vi/` with images of equal names. `CASES.json` maps rule -> image name -> metric -> value; the
rules are `avg` (mean of luma and infrared, rounded) and `max` (their maximum). Prints the largest relative deviation
of each metric; the exit status is 1 if one is above the tolerance.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import command_line, timed
from thfuse_sam.images import luma, read_infrared, read_visible
from thfuse_sam.metrics import METRICS, fusion_metrics

TOLERANCE = 1e-3  # relative

Grey = NDArray[np.uint8]
Cases = dict[str, dict[str, dict[str, float]]]

RULES: dict[str, Callable[[Grey, Grey], Grey]] = {
    "avg": lambda ir, vi: np.rint((ir.astype(np.float64) + vi) / 2).astype(np.uint8),
    "max": np.maximum,
}


def deviation(value: float, reference: float) -> float:
    """Relative deviation; 0 where both are undefined or equal, infinite where only one is a number."""
    if value == reference or (math.isnan(value) and math.isnan(reference)):
        return 0.0
    if not math.isfinite(value) or not math.isfinite(reference) or reference == 0:
        return math.inf
    return abs(value / reference - 1)


def worst_deviations(data_dir: Path, cases: Cases) -> tuple[dict[str, tuple[float, str]], float]:
    """For each metric the largest relative deviation and the case it is from; and the mean seconds an image took."""
    worst = dict.fromkeys(METRICS, (-1.0, "no reference"))
    seconds = []
    for rule, images in cases.items():
        for name, references in images.items():
            ir = read_infrared(data_dir / "ir" / name)
            vi = luma(read_visible(data_dir / "vi" / name))
            fused = RULES[rule](ir, vi)
            with timed() as spent:
                values = fusion_metrics(fused, ir, vi)
            seconds.append(spent.wall)
            for metric, reference in references.items():
                worst[metric] = max(worst[metric], (deviation(values[metric], reference), f"{rule} {name}"))
    return worst, sum(seconds) / max(len(seconds), 1)


def read_cases(path: Path) -> Cases:
    """Read the reference values; ValueError where a rule or metric is unknown or no value is there."""
    cases: Cases = json.loads(path.read_text(encoding="utf-8"))
    for rule, images in cases.items():
        if rule not in RULES:
            raise ValueError(f"{path}: unknown rule {rule!r}; known are {', '.join(RULES)}")
        for name, references in images.items():
            unknown = set(references) - set(METRICS)
            if unknown:
                raise ValueError(f"{path}: unknown metric {min(unknown)!r} of {rule} {name}")
    if not any(references for images in cases.values() for references in images.values()):
        raise ValueError(f"{path}: holds no reference values")
    return cases


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print it; 0 if every metric agrees, 1 otherwise."""
    parser = command_line(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with ir/ and vi/")
    parser.add_argument("--cases", type=Path, required=True, help="JSON file: rule -> image name -> metric -> value")
    options = parser.parse_args(argv)
    if not options.data_dir.is_dir():
        parser.error(f"--data_dir {options.data_dir}: no such folder")
    try:
        cases = read_cases(options.cases)
    except (OSError, ValueError) as error:
        parser.error(f"--cases: {error}")

    worst, seconds = worst_deviations(options.data_dir, cases)
    for metric, (largest, case) in worst.items():
        verdict = "ok" if largest <= TOLERANCE else "DIFFERS"
        print(f"{metric:8} " + ("not compared" if largest < 0 else f"{largest:9.2e}  {verdict}  ({case})"))
    print(f"{seconds:.3f} s an image")
    return 1 if any(largest > TOLERANCE for largest, _ in worst.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
