"""Comparing fused images of several methods: the same metrics for all, means, and mean ranks with their uncertainty."""

import dataclasses
import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.datasets.targets import TargetSet
from thfuse_sam.errors import ImageReadError, UsageError, counted, first_of, option_text
from thfuse_sam.fusion.fusing import FusedPair, Metrics
from thfuse_sam.images import image_form, image_size, luma, read_visible, size_text
from thfuse_sam.metrics import METRICS, NATURAL_METRICS, TEN_METRICS, natural_metrics
from thfuse_sam.metrics.ranks import mean_ranks, rank_intervals
from thfuse_sam.metrics.targets import TargetRow, TargetScore, measure_targets, target_rows
from thfuse_sam.thermal import InfraredReading

ALL_METRICS = {**METRICS, **NATURAL_METRICS}  # the columns of a table
BETTER = {key: metric.better for key, metric in ALL_METRICS.items()}
NO_IMAGE = "no fused image"
METRICS_FILE, INFRARED = "metrics.json", "infrared"  # its entry that says how infrared images were read
_USUAL = {"ir_range": "image", "ir_polarity": "white-hot"}  # where a network or a mask tree says otherwise
_SHOWN = 2  # left-out pairs or labels that a line names

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Method:
    """The fused images of a method."""

    name: str
    images: Mapping[str, Path]  # pair name -> file; a method may lack some pairs
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)  # pair name -> why it has no usable image
    seconds: float | None = None  # that it took per pair; None: not known

    def lacks(self, name: str) -> str:
        """Why the method has no image of a pair, in words; "" if it has one."""
        return "" if name in self.images else f"{self.name}: {self.problems.get(name, NO_IMAGE)}"


@dataclasses.dataclass(frozen=True)
class MethodScores:
    """One row of the table."""

    name: str
    images: int  # number of fused images that the method has
    mean: dict[str, float]  # metric -> mean over the pairs that all methods have; nan where it is defined for none
    ranks: dict[str, float]  # metric -> mean rank over the same pairs, 1 is best; empty for a single method
    mean_rank: float  # mean of `ranks`; nan for a single method
    interval: tuple[float, float]  # 95 % interval of `mean_rank` if other pairs of the same kind had been measured
    targets: list[TargetRow]  # over the same pairs
    seconds: float | None = None  # per pair


def find_methods(
    given: Sequence[str], pairs: Sequence[ImagePair], taken: Sequence[str], *, option: str = "`compare`"
) -> list[Method]:
    """The methods that an option names: folders of fused images under the pairs' names, with any image suffix.

    Images of another size than their pair, or unreadable ones, are among the methods' `problems`.

    Args:
        given: the option's values: "DIR", or "NAME=DIR" to show a method under another name than the folder's.
        taken: names that no method may have, such as that of the network they are compared with.
        option: how messages name the option.

    Raises:
        UsageError: there is no such folder, a name is used twice, or a folder has a usable image of none of the pairs.
    """
    methods: list[Method] = []
    for text in given:
        name, folder = _name_and_folder(text)
        if name in {*taken, *(method.name for method in methods)}:
            raise UsageError(f"{option} {text}: the name '{name}' is taken by another row; give one as NAME={folder}")
        if not folder.is_dir():
            raise UsageError(f"{option} {text}: no such folder; give one with fused images under the pairs' names")
        methods.append(method_of(name, folder, pairs, where=f"{option} {text}"))
        _warn_if_read_otherwise(folder, pairs[0])
    return methods


def _warn_if_read_otherwise(folder: Path, pair: ImagePair) -> None:
    """Warn where the metrics beside fused images say that infrared images were read in another way for them."""
    try:
        noted = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))[INFRARED]
        then, now = InfraredReading.of_settings(noted).settings(), pair.reading.settings()
        is_deep, _ = image_form(pair.ir)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ImageReadError):
        return
    if not is_deep:  # 8 bits are taken as they are, whatever the range
        then.pop("ir_range", None)
        now.pop("ir_range", None)
    give = {name: value for name, value in then.items() if now.get(name) != value}
    if "ir_range" in give:
        give["ir_range"] = tuple(give["ir_range"].split())
    remedies = [f"give {option_text(name, value)}" for name, value in give.items()]
    for name in now.keys() - then.keys():
        remedies.append(f"give {option_text(name, _USUAL[name])}" if name in _USUAL else f"leave `{name}` out")
    if remedies:
        log.warning(
            "%s: these images were fused of infrared images that are read in another way here; %s",
            folder, " and ".join(remedies),
        )  # fmt: skip


def method_of(
    name: str,
    folder: Path,
    pairs: Sequence[ImagePair],
    *,
    where: str,
    failed: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Method:
    """A method by its folder of fused images. `failed`: pairs that have none, with the reason.

    Raises UsageError, beginning with `where`: no usable image of any pair.
    """
    files, images, problems = list_images(folder), dict[str, Path](), dict(failed or {})
    for pair in pairs:
        if pair.name in files and pair.name not in problems:
            if reason := _unusable(files[pair.name], pair):
                problems[pair.name] = reason
            else:
                images[pair.name] = files[pair.name]
    if not images:
        reason = next(iter(problems.values()), f"no image there has the name of a pair, such as '{pairs[0].name}'")
        raise UsageError(f"{where}: {reason}; give fused images of the names and sizes of their pairs")
    if len(images) < len(pairs):
        lacking = [f"{pair.name} ({problems.get(pair.name, NO_IMAGE)})" for pair in pairs if pair.name not in images]
        log.warning(
            "%s: has %d of %d pairs; left out of every row: %s",
            name, len(images), len(pairs), first_of(lacking, _SHOWN, "; "),
        )  # fmt: skip
    return Method(name, images, problems, seconds)


def _unusable(image: Path, pair: ImagePair) -> str:
    """Why an image cannot be the fused image of a pair, from both files' headers; "" if it can."""
    try:
        fused, visible = image_size(image), image_size(pair.vi)
    except ImageReadError as error:
        return str(error)
    return "" if fused == visible else f"{image} is {size_text(fused)}, its pair {size_text(visible)} (width x height)"


class Comparison:
    """Collects the measures of every method; an observer of `fuse_pairs`.

    A pair of which a method has no usable image counts for none, so that all rows are about the same pairs.

    `left_out` may be added to.
    """

    def __init__(
        self,
        own_name: str,
        others: Sequence[Method],
        metrics: Metrics,
        targets: TargetSet | None = None,
        *,
        own_seconds: float | None = None,
    ) -> None:
        self.names = [own_name, *(method.name for method in others)]
        self.values: dict[str, list[dict[str, float] | None]] = {}  # pair name -> metrics of each; None: no image
        self.left_out: dict[str, str] = {}  # pair name -> why it does not count
        self.targets = targets
        self._seconds = [own_seconds, *(method.seconds for method in others)]
        self._scores: dict[str, list[list[TargetScore]]] = {}  # of targets; pair name -> one entry per method
        self._others = others
        self._metrics = metrics

    def add(self, result: FusedPair) -> None:
        """Measure all methods' images of a pair."""
        name = result.pair.name
        lacking = [reason for method in self._others if (reason := method.lacks(name))]
        pictures: list[ImageArray | None] = [read_visible(result.path)]
        for method in self._others:
            try:
                pictures.append(read_visible(method.images[name]) if name in method.images else None)
            except ImageReadError as error:
                log.warning("%s: left out of every row: %s: %s", name, method.name, error)
                lacking.append(f"{method.name}: {error}")
                pictures.append(None)
        # The network's own luma, without the rounding of its coloured image.
        lumas = [result.fused, *(None if picture is None else luma(picture) for picture in pictures[1:])]
        self.values[name] = [
            None if grey is None or picture is None else self._measure(grey, picture, result, index == 0)
            for index, (grey, picture) in enumerate(zip(lumas, pictures, strict=True))
        ]
        if lacking:
            self.left_out[name] = "; ".join(lacking)
        elif self.targets is not None:
            labelled, masks = self.targets.by_name.get(name, []), result.ir_labels
            self._scores[name] = [
                measure_targets(labelled, grey, result.infrared, masks) for grey in lumas if grey is not None
            ]

    def _measure(self, grey: ImageArray, picture: ImageArray, result: FusedPair, is_own: bool) -> dict[str, float]:
        cut = result.common
        sources = cut(result.infrared), cut(result.visible_luma)
        values = result.metrics if is_own else self._metrics(cut(grey), *sources)
        return {**values, **natural_metrics(cut(grey), cut(picture), *sources, cut(result.visible))}

    def table(
        self, better: Mapping[str, str] = BETTER, ranked: Collection[str] | None = TEN_METRICS
    ) -> list[MethodScores]:
        """One row per method, in their order.

        Args:
            better: "higher" or "lower" for each metric, in column order.
            ranked: the metrics that ranks are made of; None: all.
        """
        shared = self._shared()
        shape = (len(shared), len(self.names), len(better))
        values = np.array([[[row[key] for key in better] for row in rows] for rows in shared], float).reshape(shape)
        keys = [key for key in better if ranked is None or key in ranked]
        signs = np.array([1.0 if better[key] == "higher" else -1.0 for key in keys])
        scores = values[..., [list(better).index(key) for key in keys]] * signs
        is_ranked = len(self.names) > 1
        ranks = mean_ranks(scores) if is_ranked else np.full((len(self.names), len(keys)), math.nan)
        intervals = rank_intervals(scores) if is_ranked else np.full((len(self.names), 2), math.nan)
        return [
            MethodScores(
                name,
                sum(rows[index] is not None for rows in self.values.values()),
                {key: _mean(values[:, index, column]) for column, key in enumerate(better)},
                {key: float(ranks[index, column]) for column, key in enumerate(keys) if is_ranked},
                _mean(ranks[index]),
                (float(intervals[index, 0]), float(intervals[index, 1])),
                self.target_rows(index),
                self._seconds[index],
            )
            for index, name in enumerate(self.names)
        ]

    def target_rows(self, method: int = 0) -> list[TargetRow]:
        """The target measures of a method, by class and size, over the pairs that all methods have."""
        return target_rows(score for scores in self._scores.values() for score in scores[method])

    def _shared(self) -> list[list[dict[str, float]]]:
        return [[row or {} for row in rows] for name, rows in self.values.items() if all(rows)]

    @property
    def shared_pairs(self) -> int:
        """Number of pairs that all methods have; means and ranks are over these."""
        return len(self._shared())

    def caption(self) -> list[str]:
        """What stands above the tables: over how many pairs they are, and what was left out."""
        lines = [f"Means over {self.shared_pairs} of {len({*self.values, *self.left_out})} pairs."]
        if len(self.names) > 1:
            lines.append(f"Ranks are of {', '.join(TEN_METRICS)}; 1 is the best; in brackets the 95 % interval.")
        for what, reasons in (
            ("pair", [f"{name} ({reason})" for name, reason in self.left_out.items()]),
            ("label", self.targets.left_out if self.targets is not None else []),
        ):
            if reasons:
                lines.append(f"{counted(len(reasons), what)} left out of every row: {first_of(reasons, _SHOWN, '; ')}.")
        return lines


def _name_and_folder(text: str) -> tuple[str, Path]:
    """Name and folder of a method given as DIR or NAME=DIR."""
    name, separator, folder = text.partition("=")
    if separator and name and "/" not in name and not Path(text).exists():
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the values that are defined; nan where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
