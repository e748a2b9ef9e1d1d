"""What was measured of fused images, as tables of text and as CSV and JSON files."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thfuse_sam.files import write_csv, write_json
from thfuse_sam.metrics.targets import ALL, TargetRow
from thfuse_sam.report.compare import ALL_METRICS, INFRARED, METRICS_FILE, Comparison, MethodScores
from thfuse_sam.report.tables import figure_text, markdown_table
from thfuse_sam.thermal import AS_STORED, InfraredReading

_CONTRAST_HEADS = ("targets", "contrast kept", "at least 80 %", "below 40 %")
_MASK_HEADS = ("boxes", "found by masks")


def write_metrics(
    output_dir: Path,
    metrics: Mapping[str, Mapping[str, float]],
    model: str,
    targets: Sequence[TargetRow] | None = None,
    reading: InfraredReading = AS_STORED,
) -> dict[str, float]:
    """Write the values of each image (by name) and their mean to metrics.csv and metrics.json, and return the mean.

    Undefined values (nan) stay empty, or null. Target measures, and how infrared images were read, go into the
    JSON file. Raises OutputError.
    """
    mean = mean_metrics(metrics)
    rows = [[name, *(values[key] for key in mean)] for name, values in [*metrics.items(), ("mean", mean)]]
    write_csv(output_dir / "metrics.csv", [["name", *mean], *rows])
    images = {name: _json_values(values) for name, values in metrics.items()}
    content: dict[str, Any] = {"model": model, "mean": _json_values(mean), "images": images}
    content[INFRARED] = reading.settings()
    if targets is not None:
        content["targets"] = [_json_values(dataclasses.asdict(row)) for row in targets]
    write_json(output_dir / METRICS_FILE, content)
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


def best_first(table: Sequence[MethodScores]) -> list[MethodScores]:
    """The rows by mean rank; a single row as it is."""
    return sorted(table, key=lambda row: row.mean_rank)


def comparison_text(comparison: Comparison) -> str:
    """The caption and the table of metrics, the best mean rank first, then that of targets if they were measured."""
    table = best_first(comparison.table())
    heads = [f"{key} ({metric.note})" if metric.note else key for key, metric in ALL_METRICS.items()]
    is_timed = any(row.seconds is not None for row in table)
    rows = [
        (
            row.name,
            _rank_text(row),
            *(figure_text(value) for value in row.mean.values()),
            *([figure_text(math.nan if row.seconds is None else row.seconds, ".3g")] if is_timed else []),
        )
        for row in table
    ]
    text = markdown_table(("method", "mean rank", *heads, *(["s/pair"] if is_timed else [])), rows)
    lines = [*comparison.caption(), "", text]
    if comparison.targets is not None:
        lines += ["", targets_text({row.name: row.targets for row in table})]
    return "\n".join(lines)


def _rank_text(row: MethodScores) -> str:
    low, high = (figure_text(end, ".2f") for end in row.interval)
    return f"{row.mean_rank:.2f} [{low} to {high}]" if math.isfinite(row.mean_rank) else figure_text(row.mean_rank)


def targets_text(rows: Mapping[str, Sequence[TargetRow]]) -> str:
    """Target measures by method and class as a table; by size, too, if there is one method, and of masks if any."""
    has_masks = any(row.boxes for own in rows.values() for row in own)
    cells = [
        (
            *(name, row.category, row.size, row.targets),
            *map(figure_text, (row.contrast_kept, row.well_kept, row.badly_kept)),
            *((row.boxes, figure_text(row.found)) if has_masks else ()),
        )
        for name, own in rows.items()
        for row in own
        if row.size == ALL or len(rows) == 1
    ]
    heads = ("method", "class", "size", *_CONTRAST_HEADS, *(_MASK_HEADS if has_masks else ()))
    return markdown_table(heads, cells, text_columns=3)


def write_targets(folder: Path, rows: Mapping[str, Sequence[TargetRow]]) -> None:
    """Write target measures by method, class and size to targets.csv. Raises OutputError."""
    names = [field.name for field in dataclasses.fields(TargetRow)]
    cells = [[name, *dataclasses.astuple(row)] for name, own in rows.items() for row in own]
    write_csv(folder / "targets.csv", [["method", *names], *cells])


def write_comparison(folder: Path, table: Sequence[MethodScores]) -> None:
    """Write the table to comparison.csv: one row per method, the best mean rank first. Raises OutputError."""
    metrics, ranked = list(table[0].mean), list(table[0].ranks)
    head = ["method", "images", "mean_rank", "rank_low", "rank_high", "seconds", *metrics]
    rows: list[list[str | float]] = [[*head, *(f"rank_{key}" for key in ranked)]]
    for row in best_first(table):
        seconds = math.nan if row.seconds is None else row.seconds
        rows.append(
            [row.name, row.images, row.mean_rank, *row.interval, seconds, *row.mean.values(), *row.ranks.values()]
        )
    write_csv(folder / "comparison.csv", rows)
