"""How exactly infrared images that were moved by known transformations are brought back, and what that costs.

    python -m benchmarks.align --dataset DIR [DIR ...] [--kind shift|similarity|homography] [--every 1] [--seed 5]

Each infrared image is moved at random: by up to 5.6 % of the width each way, and but for `shift` turned by up to 5
degrees and scaled by up to 10 %; for `homography` its corners are also moved by up to 1.5 % of the width. Every second
one is then halved in size. The registration of published data sets is off by some pixels itself. So the error is taken
against what is found on the pair as it was, composed with the known movement ("error"), where that is a sure estimate;
the error against the data set's own registration stands beside it. Errors are mean distances of the corners in pixels
of an image 640 wide. Wrong: by more than 6 pixels. `--list` prints a line for each pair. Prints a markdown table.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import command_line, made_by, markdown_table, timed
from thfuse_sam.align.estimate import QUICK, Alignment, estimate_alignment
from thfuse_sam.align.transform import Kind, Matrix, corner_distance, corners, fitted, inverse, similarity
from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.datasets.pair_checks import read_pair
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.fusion.misalignment import NOTICED, noticed_offset
from thfuse_sam.images import luma

WRONG = 6.0  # pixels of an image 640 wide


@dataclass(frozen=True)
class Trial:
    """One moved pair. Errors in pixels of an image 640 wide."""

    name: str
    found: Alignment
    reference: Alignment
    error: float
    own_error: float  # against the data set's own registration
    seconds: float
    moved: float  # share of the width
    noticed: bool
    noticed_before: float | None  # on the pair as it was
    quick_seconds: float


def movement(random: np.random.Generator, kind: str, size: Size) -> Matrix:
    width = size[1]
    shift = tuple(random.uniform(-0.056, 0.056, 2) * width)
    degrees, scale = random.uniform(-5, 5), random.uniform(0.9, 1.1)
    jitter = random.uniform(-0.015, 0.015, (4, 2)) * width
    if kind == "shift":
        return similarity(0, 1, shift, size)
    matrix = similarity(degrees, scale, shift, size)
    if kind == "similarity":
        return matrix
    places = corners(size).astype(np.float32)
    return np.asarray(cv2.getPerspectiveTransform(places, places + jitter.astype(np.float32))) @ matrix


def trial(name: str, infrared: ImageArray, visible: ImageArray, kind: Kind, random: np.random.Generator) -> Trial:
    size: Size = (visible.shape[0], visible.shape[1])
    move = movement(random, kind, size)
    moved = np.asarray(cv2.warpPerspective(infrared, move, size[::-1], flags=cv2.INTER_CUBIC), np.uint8)
    if random.random() < 0.5:
        half = (size[1] // 2, size[0] // 2)
        moved = np.asarray(cv2.resize(moved, half, interpolation=cv2.INTER_AREA), np.uint8)
    with timed() as spent:
        found = estimate_alignment(moved, visible, kind)
    reference = estimate_alignment(infrared, visible, kind)
    correction = found.matrix @ inverse(fitted((moved.shape[0], moved.shape[1]), size))
    with timed() as quick_spent:
        estimate_alignment(infrared, visible, search=QUICK)
    pixels = 640 / size[1]
    return Trial(
        name,
        found,
        reference,
        corner_distance(correction, reference.matrix @ inverse(move), size) * pixels,
        corner_distance(correction, inverse(move), size) * pixels,
        spent.cpu,
        corner_distance(inverse(move), np.eye(3), size) / size[1],
        noticed_offset(moved, visible) is not None,
        noticed_offset(infrared, visible),
        quick_spent.cpu,
    )


def row(name: str, trials: Sequence[Trial]) -> tuple[object, ...]:
    judged = [one for one in trials if one.reference.confident]
    error = np.array([one.error for one in judged])
    sure = [one for one in judged if one.found.confident]
    wrong = sum(one.error > WRONG for one in sure)
    off = [one.noticed for one in trials if one.moved > NOTICED]
    return (
        name,
        f"{len(judged)} of {len(trials)}",
        f"{np.median(error):.2f}",
        f"{(error < 3).mean():.3f}",
        f"{np.median([one.own_error for one in trials]):.2f}",
        f"{len(sure)}",
        f"{np.mean([one.error < 3 for one in sure]):.3f}",
        f"{wrong} ({100 * wrong / max(len(sure), 1):.1f} %)",
        sum(one.found.confident for one in trials) - len(sure),
        f"{np.mean([one.seconds for one in trials]):.2f}",
        f"{np.mean(off):.2f}" if off else "-",
        f"{sum(one.noticed_before is not None for one in trials)}",
        f"{1000 * np.mean([one.quick_seconds for one in trials]):.0f}",
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--dataset", type=Path, nargs="+", required=True)
    parser.add_argument("--kind", choices=("shift", "similarity", "homography"), default="similarity")
    parser.add_argument("--every", type=int, default=1, help="take each Nth pair only")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    rows = []
    for folder in options.dataset:
        random = np.random.default_rng(options.seed)
        trials = []
        for pair in find_pairs(folder).pairs[:: options.every]:
            infrared, visible = read_pair(pair)
            trials.append(trial(pair.name, infrared, luma(visible), options.kind, random))
            if options.list:
                one = trials[-1]
                print(
                    f"{folder.name} {one.name}: error {one.error:.2f}, own {one.own_error:.2f}; {one.found}; "
                    f"disagreement {one.found.disagreement:.4f}; as it was: {one.reference}; "
                    f"noticed {one.noticed}, and before it was moved {one.noticed_before}",
                    file=sys.stderr,
                    flush=True,
                )
        rows.append(row(folder.name, trials))
    print(f"{made_by()}\n{options.kind}, seed {options.seed}\n")
    head = (
        "data set",
        "judged",
        "median px",
        "under 3 px",
        "median px, own registration",
        "sure",
        "of these under 3 px",
    )
    print(markdown_table((*head, "wrong", "sure, not judged", "CPU s", "noticed", "noticed unmoved", "ms"), rows))


if __name__ == "__main__":
    main()
