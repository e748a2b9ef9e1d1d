"""Comparing a network's fused images with those of other methods: the same metrics for all, means and mean ranks."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.pairs import ImagePair, list_images
from thfuse_sam.errors import ImageReadError, ImageSizeError, UsageError
from thfuse_sam.files import write_csv
from thfuse_sam.fusion.fusing import FusedPair, Metrics
from thfuse_sam.images import image_size, luma, read_visible

COMPARISON_CSV = "comparison.csv"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Method:
    """The fused images of another method."""

    name: str
    images: Mapping[str, Path]  # pair name -> file; a method may lack some pairs


@dataclasses.dataclass(frozen=True)
class MethodScores:
    """One row of the table."""

    name: str
    images: int  # number of fused images that the method has
    mean: dict[str, float]  # metric -> mean over the pairs that all methods have; nan where it is defined for none
    ranks: dict[str, float]  # metric -> mean rank over the same pairs, 1 is best; empty for a single method
    mean_rank: float  # mean of `ranks`; nan for a single method


def find_methods(
    given: Sequence[str], pairs: Sequence[ImagePair], taken: Sequence[str], *, option: str = "`compare`"
) -> list[Method]:
    """The methods that an option names: folders of fused images under the pairs' names, with any image suffix.

    Args:
        given: the option's values: "DIR", or "NAME=DIR" to show a method under another name than the folder's.
        taken: names that no method may have, such as that of the network they are compared with.
        option: how messages name the option.

    Raises:
        UsageError: there is no such folder, a name is used twice, or a folder has an image of none of the pairs.
        ImageSizeError: an image differs in size from its pair.
    """
    methods: list[Method] = []
    for text in given:
        name, folder = _name_and_folder(text)
        if name in {*taken, *(method.name for method in methods)}:
            raise UsageError(f"{option} {text}: the name '{name}' is taken; give another one as NAME={folder}")
        if not folder.is_dir():
            raise UsageError(f"{option} {text}: no such folder; give one with fused images under the pairs' names")
        files = list_images(folder)
        images = {pair.name: files[pair.name] for pair in pairs if pair.name in files}
        if not images:
            raise UsageError(
                f"{option} {text}: no image there has the name of a pair, such as '{pairs[0].name}'; "
                "give fused images the names of their pairs"
            )
        if len(images) < len(pairs):
            log.warning(
                "%s: has %d of %d pairs; means and ranks are over pairs that all have", name, len(images), len(pairs)
            )
        for pair in pairs:
            if pair.name in images:
                _require_size(images[pair.name], pair, option)
        methods.append(Method(name, images))
    return methods


class Comparison:
    """Collects the metrics of every method; an observer of `fuse_pairs`."""

    def __init__(self, own_name: str, others: Sequence[Method], metrics: Metrics) -> None:
        self.names = [own_name, *(method.name for method in others)]
        self.values: dict[str, list[dict[str, float] | None]] = {}  # pair name -> one entry per method; None: no image
        self._others = others
        self._metrics = metrics

    def add(self, result: FusedPair) -> None:
        """Measure the other methods' images of a pair. One that cannot be read counts as missing."""
        own: list[dict[str, float] | None] = [result.metrics]
        self.values[result.pair.name] = own + [self._measure(method, result) for method in self._others]

    def _measure(self, method: Method, result: FusedPair) -> dict[str, float] | None:
        path = method.images.get(result.pair.name)
        if path is None:
            return None
        try:
            return self._metrics(luma(read_visible(path)), result.infrared, result.visible_luma)
        except ImageReadError as error:
            log.warning("%s: left out: %s", method.name, error)
            return None

    def table(self, better: Mapping[str, str]) -> list[MethodScores]:
        """One row per method, the own one first. `better`: "higher" or "lower" for each metric, in column order."""
        shared = [[row or {} for row in rows] for rows in self.values.values() if all(rows)]
        shape = (len(shared), len(self.names), len(better))
        values = np.array([[[row[key] for key in better] for row in rows] for rows in shared], float).reshape(shape)
        signs = np.array([1.0 if direction == "higher" else -1.0 for direction in better.values()])
        ranks = mean_ranks(values * signs) if len(self.names) > 1 else np.full(shape[1:], math.nan)
        return [
            MethodScores(
                name,
                sum(rows[index] is not None for rows in self.values.values()),
                {key: _mean(values[:, index, column]) for column, key in enumerate(better)},
                {key: float(ranks[index, column]) for column, key in enumerate(better) if len(self.names) > 1},
                _mean(ranks[index]),
            )
            for index, name in enumerate(self.names)
        ]

    @property
    def shared_pairs(self) -> int:
        """Number of pairs that all methods have; means and ranks are over these."""
        return sum(all(rows) for rows in self.values.values())


def mean_ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean rank of each method by each metric: pairs x methods x metrics, larger is better -> methods x metrics.

    Rank 1 is the best; equal values share the mean of their ranks. A pair counts for a metric if the metric is defined
    for every method; nan if there is no such pair.
    """
    ranks = np.empty(scores.shape)
    for method in range(scores.shape[1]):
        own = scores[:, method : method + 1]
        ranks[:, method] = 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    defined = np.logical_not(np.isnan(scores).any(axis=1))  # pairs x metrics
    counts = defined.sum(axis=0)
    sums = np.where(defined[:, np.newaxis], ranks, 0.0).sum(axis=0)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), math.nan))


def write_comparison(path: Path, table: Sequence[MethodScores]) -> None:
    """Write the table as CSV: one row per method, the best mean rank first. Raises OutputError."""
    metrics = list(table[0].mean)
    rows: list[list[str | float]] = [["method", "images", "mean_rank", *metrics, *(f"rank_{key}" for key in metrics)]]
    for row in sorted(table, key=lambda scores: scores.mean_rank):
        rows.append([row.name, row.images, row.mean_rank, *row.mean.values(), *row.ranks.values()])
    write_csv(path, rows)


def _name_and_folder(text: str) -> tuple[str, Path]:
    """Name and folder of a method given as DIR or NAME=DIR."""
    name, separator, folder = text.partition("=")
    if separator and name and "/" not in name and not Path(text).exists():
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)


def _require_size(image: Path, pair: ImagePair, option: str) -> None:
    fused, visible = image_size(image), image_size(pair.vi)
    if fused != visible:
        raise ImageSizeError(
            f"{option}: {image} is {fused[1]}x{fused[0]}, {pair.vi} is {visible[1]}x{visible[0]} (width x height); "
            "bring fused images to the size of their pair"
        )


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the values that are defined; nan where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
