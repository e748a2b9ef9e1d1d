"""The metrics of a set of fused images as files: `metrics.csv` and `metrics.json`."""

import math
from collections.abc import Mapping
from pathlib import Path

from thfuse_sam.files import write_csv, write_json

METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"


def write_metrics(output_dir: Path, metrics: Mapping[str, Mapping[str, float]], model: str) -> dict[str, float]:
    """Write both files, with the values of each image (by name) and their mean, and return the mean.

    Undefined values (nan) stay empty, or null. Raises OutputError.
    """
    mean = mean_metrics(metrics)
    rows = [[name, *(values[key] for key in mean)] for name, values in [*metrics.items(), ("mean", mean)]]
    write_csv(output_dir / METRICS_CSV, [["name", *mean], *rows])
    images = {name: _json_values(values) for name, values in metrics.items()}
    write_json(output_dir / METRICS_JSON, {"model": model, "mean": _json_values(mean), "images": images})
    return mean


def mean_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean over the images, for each metric over those where it is defined; nan where it is defined for none."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    columns = {name: [values[name] for values in metrics.values() if not math.isnan(values[name])] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in columns.items()}


def _json_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
