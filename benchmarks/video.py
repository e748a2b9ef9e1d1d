"""A clip of ten seconds with moving people and cars, shake and a cut: speed, flicker on its static second, and how
exactly an infrared camera of half the size that is turned, moved and nearer is brought onto the visible one.

    python -m benchmarks.video --threads 2 --sheet sheet.jpg

The clip is made of two rendered scenes, with noise of its own in each frame. It stands still for the first second; then
the camera shakes, and what was cut out of another scene moves through the picture; at 7 seconds there is a cut.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import command_line, made_by, markdown_table, timed
from thfuse_sam.align.placement import Placer
from thfuse_sam.align.transform import corner_distance, inverse, scaling, similarity, warp
from thfuse_sam.arrays import ImageArray
from thfuse_sam.fusion.inference import fuse_batch
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import MODALITIES, write_image
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.options.shared import Precision
from thfuse_sam.shipped import shipped_root
from thfuse_sam.thermal import AS_STORED
from thfuse_sam.video.fusing import FrameFuser, VideoReport, fuse_streams
from thfuse_sam.video.reading import Frame, open_stream
from thfuse_sam.video.steadiness import ThermalLevels
from thfuse_sam.video.writing import VideoWriter, choose_codec
from tools.scenes.scene import Scene, render_scene

CPU = torch.device("cpu")
HEIGHT, WIDTH, FPS, SECONDS = 480, 640, 25, 10
STILL, CUT = 1.0, 7.0  # seconds: how long nothing moves, and when the scene changes
MARGIN = 24  # pixels; room for the shake
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
MOVEMENT = (2.0, 1.08, (10.0, -6.0))  # degrees, scale and shift of the infrared camera, pixels of the visible one
NOISE = 2.0  # grey levels, standard deviation
MOVING = ("person", "car", "cyclist")


def rendered(seed: int) -> Scene:
    return render_scene(seed, height=HEIGHT + 2 * MARGIN, width=WIDTH + 2 * MARGIN, condition="day")


def moving_objects(scene: Scene) -> npt.NDArray[np.bool_]:
    """Where a scene has people and cars, HxW."""
    labels = [label for label, name in scene.names.items() if name in MOVING]
    return np.isin(scene.infrared_labels, labels) | np.isin(scene.visible_labels, labels)


def clip(frames: int) -> Iterator[tuple[ImageArray, ImageArray]]:
    """Infrared (uint8 HxW) and visible (HxWx3, RGB) frames."""
    random = np.random.default_rng(0)
    scenes, cast = (rendered(1), rendered(4)), rendered(7)
    people = moving_objects(cast)
    shake = np.zeros(2)
    for index in range(frames):
        moment = index / FPS
        scene = scenes[moment >= CUT]
        infrared, visible = scene.infrared.copy(), scene.visible.copy()
        if moment >= STILL:
            shake = 0.9 * shake + random.normal(0, 1.5, 2)
            walked = round(40 * (moment - STILL))
            where = np.roll(people, walked, axis=1)
            infrared[where] = np.roll(cast.infrared, walked, axis=1)[where]
            visible[where] = np.roll(cast.visible, walked, axis=1)[where]
        top, left = (MARGIN + np.clip(np.rint(shake), -MARGIN, MARGIN)).astype(int)
        window = np.s_[top : top + HEIGHT, left : left + WIDTH]
        yield noisy(infrared[window], random), noisy(visible[window], random)


def noisy(image: ImageArray, random: np.random.Generator) -> ImageArray:
    noise = NOISE * random.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def moved(infrared: ImageArray) -> ImageArray:
    """What the infrared camera of half the size sees, which is not in register."""
    seen = warp(infrared, similarity(*MOVEMENT, (HEIGHT, WIDTH)), (HEIGHT, WIDTH))
    return np.asarray(cv2.resize(seen, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA), np.uint8)


def alignment_error(report: VideoReport) -> float:
    """Mean distance of the corners of the infrared frames from where they belong, pixels of the visible ones."""
    size = (HEIGHT // 2, WIDTH // 2)
    truth = inverse(similarity(*MOVEMENT, (HEIGHT, WIDTH))) @ scaling(size, (HEIGHT, WIDTH))
    return corner_distance(np.array(report.matrix), truth, size)


def fuse_files(
    folder: Path,
    smooth: float,
    infrared: str = "ir",
    *,
    model: str = "thfuse_tiny",
    placer: Placer | None = None,
    device: torch.device = CPU,
) -> tuple[VideoReport, float, float]:
    """Fuse both files of `folder`; the report, CPU milliseconds a frame of all threads, and frames a second."""
    network = load_network(shipped_root() / f"models/{model}.safetensors")[0]
    fuser = FrameFuser(network.to(device), device, smooth=smooth)
    names = zip((infrared, "vi"), MODALITIES, strict=True)
    ir, vi = (open_stream(str(folder / f"{name}.mp4"), modality, fps=FPS, how=AS_STORED) for name, modality in names)
    writer = VideoWriter(folder / f"fused_{infrared}.mp4", choose_codec(Path("x.mp4"), "auto"))
    with timed() as spent:
        report = fuse_streams(ir, vi, fuser, writer.write, levels=ThermalLevels(AS_STORED, smooth), placer=placer)
        writer.close()
    return report, 1000 * spent.cpu / report.frames, report.frames / spent.wall


class Still:
    """The frames of the still second as a stream without a codec, which would take part of the noise away."""

    is_live, reopened = False, 0

    def __init__(self, images: Sequence[ImageArray]) -> None:
        self.name, self._images = "still", images

    def frames(self) -> Iterator[Frame]:
        return (Frame(index / FPS, image) for index, image in enumerate(self._images))


def still_flicker(pairs: Sequence[tuple[ImageArray, ImageArray]], model: str, smooth: float) -> tuple[float, float]:
    """Flicker of the still frames, and by how many levels the mean of the fused frames varies (standard deviation)."""
    network = load_network(shipped_root() / "models" / model)[0]
    fuser, means = FrameFuser(network, CPU, smooth=smooth), []
    report = fuse_streams(
        Still([ir for ir, _ in pairs]),
        Still([vi for _, vi in pairs]),
        fuser,
        lambda image, time: means.append(float(image.mean())),
        levels=ThermalLevels(AS_STORED, smooth),
        gray=True,
    )
    return report.flicker or 0.0, statistics.pstdev(means)


def network_table(rounds: int) -> str:
    """CPU and wall time of the networks for a pair, interleaved."""
    generator = torch.Generator().manual_seed(0)
    ir, vi = torch.rand(2, 1, 1, HEIGHT, WIDTH, generator=generator)
    arms = {
        f"{name}, {precision}": (load_network(shipped_root() / f"models/{name}.safetensors")[0], precision)
        for name in ("thfuse_lite", "thfuse_tiny")
        for precision in PRECISIONS
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(rounds + 1):
        for name, (network, precision) in arms.items():
            with timed() as seconds:
                fuse_batch(network, (ir, vi), CPU, InferenceSettings(precision=precision))
            spent[name].append((1000 * seconds.cpu, 1000 * seconds.wall))
    rows = []
    for name, runs in spent.items():
        cpu, wall = ([one[k] for one in runs[1:]] for k in (0, 1))
        rows.append((name, f"{statistics.median(cpu):.0f}", f"{statistics.median(wall):.0f}", f"{min(wall):.0f}"))
    header = (f"network, {WIDTH}x{HEIGHT}", "CPU time, ms (median)", "wall time, ms (median)", "lowest")
    return markdown_table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=FPS * SECONDS)
    parser.add_argument(
        "--sheet", type=Path, help="write a picture of frames: infrared, visible, fused, aligned and fused"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads; {made_by()}\n\n{network_table(options.rounds)}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codec = choose_codec(Path("x.mp4"), "auto")
        writers = [VideoWriter(folder / f"{stream}.mp4", codec) for stream in ("ir", "vi", "moved")]
        still = []
        for index, pair in enumerate(clip(options.frames)):
            for writer, image in zip(writers, (*pair, moved(pair[0])), strict=True):
                writer.write(image, index / FPS)
            if index < STILL * FPS:
                still.append(pair)
        for writer in writers:
            writer.close()
        report, cpu, rate = fuse_files(folder, 0.3)
        print(
            f"Clip of {report.frames} frames, decoding, fusing and encoding: {rate:.1f} frames a second, {cpu:.0f} ms "
            f"of CPU a frame; scenes begin at {', '.join(f'{moment:.2f} s' for moment in report.scenes)}; "
            f"flicker {report.flicker:.3f} grey levels\n"
        )
        aligned = fuse_files(folder, 0.3, "moved", placer=Placer("similarity"))[0]
        print(
            f"Infrared of half the size, not in register: {aligned.alignment}; error {alignment_error(aligned):.2f} "
            f"pixels; flicker {aligned.flicker:.3f} grey levels\n"
        )
        rows = [
            (model.split(".")[0], f"{smooth:g}", *(f"{value:.3f}" for value in still_flicker(still, model, smooth)))
            for model in ("thfuse_lite.safetensors", "thfuse_tiny.safetensors")
            for smooth in (0.0, 0.3)
        ]
        header = ("still second, noise of 2 grey levels", "`--smooth`", "flicker, grey levels", "mean varies by")
        print(markdown_table(header, rows))
        if options.sheet is not None:
            write_sheet(folder, options.sheet)
    return 0


def write_sheet(folder: Path, path: Path, rows: int = 8) -> None:
    """Frames of the clip, one a row: infrared, visible, fused, fused after aligning; two rows are around the cut."""
    streams = [folder / f"{name}.mp4" for name in ("ir", "vi", "fused_ir", "fused_moved")]
    videos = [list(open_stream(str(place), "vi", fps=FPS, how=AS_STORED).frames()) for place in streams]
    number = len(videos[-1])
    cut = min(round(CUT * FPS), number - 1)
    chosen = sorted({*np.linspace(0, number - 1, rows - 2).astype(int), cut - 1, cut})
    strips = [np.hstack([video[k].values[::2, ::2] for video in videos]) for k in chosen]
    write_image(path, np.vstack(strips))


if __name__ == "__main__":
    sys.exit(main())
