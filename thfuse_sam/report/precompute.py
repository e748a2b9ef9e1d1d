"""The report of a mask tree: coverage, number and size of segments, images without masks, failures, a contact sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array
from thfuse_sam.errors import ImageReadError, MaskReadError
from thfuse_sam.images import Modality, read_for_sam
from thfuse_sam.masks.format import segment_labels
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.store import MaskStore, open_masks
from thfuse_sam.report.contact_sheet import Entry, spread_entries
from thfuse_sam.report.page import REPORT_FOLDER, replacing, write_page
from thfuse_sam.report.pictures import Pictures, resize_labels, scaled_size
from thfuse_sam.report.run_facts import Facts
from thfuse_sam.thermal import AS_STORED, InfraredReading

CARDS = 96  # images on the contact sheet
CARD_WIDTH = 320  # pixels
_TITLES: dict[Modality, str] = {"ir": "infrared", "vi": "visible"}
_BINS = 16


@dataclass
class _Tally:
    """Statistics of the masks of one modality; areas are fractions of the image."""

    images: int = 0
    segments: list[int] = field(default_factory=list)  # number of segments of each mask
    coverage: list[float] = field(default_factory=list)  # area that each mask covers
    sizes: list[npt.NDArray[np.float64]] = field(default_factory=list)  # one array per mask: areas of its segments


def write_precompute_report(
    root: Path, images: Mapping[Modality, Mapping[str, Path]], facts: Facts, reading: InfraredReading = AS_STORED
) -> Path:
    """Write the report of the mask tree at `root` on `images` (name -> file) and return the path of its page.

    Reads every mask once. `reading`: how infrared images are read.

    Raises OutputError, and ManifestError if the manifest is unreadable.
    """
    folder = root / REPORT_FOLDER  # where no reader of masks looks
    store = open_masks(root)
    tallies = {modality: _Tally() for modality in images}
    problems: dict[str, list[str]] = {"failed": [], "missing": [], "unreadable": [], "empty": []}
    manifest = Manifest.find(root)
    failures = manifest.failure_reasons() if manifest is not None else {}
    readable: list[Entry] = []
    entries = [(modality, name, path) for modality, files in images.items() for name, path in files.items()]
    for modality, name, path in entries:
        tallies[modality].images += 1
        title = f"{_TITLES[modality]}: {name}"
        if not store.has(modality, name):
            reason = failures.get((modality, name))
            problems["missing" if reason is None else "failed"].append(title + (f": {reason}" if reason else ""))
            continue
        try:
            label_map = segment_labels(store.read(modality, name, None))
        except MaskReadError as error:
            problems["unreadable"].append(f"{title}: {error}")
            continue
        if not _add_mask(tallies[modality], label_map):
            problems["empty"].append(title)
        readable.append((modality, name, path))
    readable.sort(key=lambda entry: (entry[1], entry[0]))  # both images of a pair side by side
    with replacing(folder) as staging:
        data: dict[str, Any] = {
            "modalities": [_summary(_TITLES[modality], tally) for modality, tally in tallies.items()],
            "histograms": _histograms(list(tallies.values())),
            "problems": problems,
            "cards": _cards(Pictures(staging), store, spread_entries(readable, CARDS), reading),
        }
        page = write_page(staging, "precompute", facts, data)
    return folder / page.name


def _add_mask(tally: _Tally, label_map: npt.NDArray[np.int64]) -> int:
    """Add a mask's statistics to the tally; returns the number of its segments."""
    areas = np.bincount(label_map.ravel())[1:]
    areas = areas[areas > 0]  # a segment that lies wholly under smaller ones has no pixel of its own
    tally.segments.append(len(areas))
    tally.coverage.append(float(areas.sum() / label_map.size))
    tally.sizes.append(areas / label_map.size)
    return len(areas)


def _summary(title: str, tally: _Tally) -> dict[str, Any]:
    sizes = np.concatenate(tally.sizes) if tally.sizes else np.zeros(0)
    return {
        "title": title,
        "images": tally.images,
        "masks": len(tally.segments),
        "empty": tally.segments.count(0),
        "medianSegments": float(np.median(tally.segments)) if tally.segments else None,
        "mostSegments": max(tally.segments, default=None),
        "medianCoverage": float(np.median(tally.coverage)) if tally.coverage else None,
        "medianSize": float(np.median(sizes)) if sizes.size else None,
    }


def _histograms(tallies: Sequence[_Tally]) -> list[dict[str, Any]]:
    most = max((count for tally in tallies for count in tally.segments), default=0)
    width = -(-(most + 1) // _BINS)
    number_edges = np.arange(_BINS + 1) * width
    coverage_edges = np.linspace(0, 1, 11)
    size_edges = 10.0 ** np.arange(-5, 0.1, 0.5)  # fractions of the image: 0.001 % to 100 %
    return [
        {
            "title": "Number of segments",
            "note": "in an image",
            "axis": "segments",
            "labels": [str(edge) for edge in number_edges],
            "counts": [_bins(tally.segments, number_edges) for tally in tallies],
        },
        {
            "title": "Coverage",
            "note": "share of an image that lies in a segment",
            "axis": "% of the image",
            "labels": [f"{edge * 100:.0f}" for edge in coverage_edges],
            "counts": [_bins(tally.coverage, coverage_edges) for tally in tallies],
        },
        {
            "title": "Size of segments",
            "note": "share of the image, by powers of ten",
            "axis": "% of the image",
            "labels": [f"{edge * 100:.3g}" for edge in size_edges],
            "counts": [
                _bins(np.concatenate(tally.sizes).clip(size_edges[0], 1) if tally.sizes else [], size_edges)
                for tally in tallies
            ],
        },
    ]


def _bins(values: npt.ArrayLike, edges: Array) -> list[int]:
    """How many values lie between each edge and the next."""
    return [int(count) for count in np.histogram(np.asarray(values, dtype=np.float64), edges)[0]]


def _cards(
    pictures: Pictures, store: MaskStore, entries: Sequence[Entry], reading: InfraredReading
) -> list[dict[str, Any]]:
    """Write the pictures of the contact sheet; returns one card for the page for each entry that can be read."""
    cards = []
    for number, (modality, name, path) in enumerate(entries, 1):
        try:
            image = read_for_sam(path, modality, reading)
            label_map = segment_labels(store.read(modality, name, None))
        except (ImageReadError, MaskReadError):
            continue
        scale = min(1.0, CARD_WIDTH / label_map.shape[1])
        small = resize_labels(label_map, scaled_size(label_map.shape, scale))
        cards.append(
            {
                "title": _TITLES[modality],
                "name": name,
                "segments": len(np.unique(label_map[label_map > 0])),
                "coverage": float(np.count_nonzero(label_map) / label_map.size),
                "picture": pictures.thumbnail(f"{number:05d}.jpg", image, CARD_WIDTH),
                "mask": pictures.mask_layer(f"{number:05d}_mask.png", small),
            }
        )
    return cards
