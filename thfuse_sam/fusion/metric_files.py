"""The metrics of a set of fused images as files: `metrics.csv` and `metrics.json`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thfuse_sam.files import write_csv, write_json
from thfuse_sam.metrics.targets import TargetRow

METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"


def write_metrics(
    output_dir: Path, metrics: Mapping[str, Mapping[str, float]], model: str, targets: Sequence[TargetRow] | None = None
) -> dict[str, float]:
    """Write both files, with the values of each image (by name) and their mean, and return the mean.

    Undefined values (nan) stay empty, or null. Target measures go into the JSON file. Raises OutputError.
    """
    mean = mean_metrics(metrics)
    rows = [[name, *(values[key] for key in mean)] for name, values in [*metrics.items(), ("mean", mean)]]
    write_csv(output_dir / METRICS_CSV, [["name", *mean], *rows])
    images = {name: _json_values(values) for name, values in metrics.items()}
    content: dict[str, Any] = {"model": model, "mean": _json_values(mean), "images": images}
    if targets is not None:
        content["targets"] = [_json_values(dataclasses.asdict(row)) for row in targets]
    write_json(output_dir / METRICS_JSON, content)
    return mean


def mean_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the images, for each metric over those where it is defined; nan where it is defined for none."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    columns = {name: [values[name] for values in metrics.values() if not math.isnan(values[name])] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in columns.items()}


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
