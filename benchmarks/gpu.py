"""Everything that a GPU is for, measured in one run: one Markdown page in five minutes.

    python -m benchmarks.gpu > page.md

Nothing is downloaded: weights are random, images are made here, and the decoder's output is replaced, at its full cost,
by a look-up that does not wait for the CPU (`oracle.LookUp`). A part that fails, hangs, or ends its process says so,
and the next one goes on. Parts for which no time is left are named; `--parts` measures them alone.
"""

import argparse
import contextlib
import copy
import csv
import functools
import gc
import io
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from benchmarks import train_modes
from benchmarks.agreement import Masks, equal_pixels
from benchmarks.common import ROOT, command_line, made_by, markdown_table
from benchmarks.fusion_speed import OTHER, SeAFusionLayers, gpu_table
from benchmarks.oracle import LookUp, OracleDecoder, stock_masks
from benchmarks.precompute import SAMPLE
from benchmarks.precompute_command import busy, gpu_use
from benchmarks.traffic import counted
from benchmarks.video import FPS, fuse_files
from thfuse_sam.arrays import ImageArray
from thfuse_sam.cli.commands import finetune, precompute, predict, test
from thfuse_sam.commands import precompute as precompute_command
from thfuse_sam.devices import resolve_device
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import MODALITIES, read_for_sam, write_image
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.registry import MODEL_TYPES
from thfuse_sam.video.writing import VideoWriter, choose_codec

_HEADING = "## "  # before the name of a part
_PART_SECONDS = 120.0  # after which one of several parts is ended
_Generators = dict[str, AutomaticMaskGenerator]
TUNINGS = {"frozen": ["--freeze_image_encoder"], "LoRA": ["--lora_rank", "4"], "whole": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model_types", nargs="+", choices=MODEL_TYPES, default=["vit_h", "vit_b", "vit_t"])
    parser.add_argument("--tuned_model_type", choices=MODEL_TYPES, default="vit_b")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--points_per_side", type=int, default=32)
    parser.add_argument("--images", type=int, default=200, help="that precompute_masks.py makes masks of")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=5.0, help="for all parts together")
    parser.add_argument("--in_process", action="store_true", help=argparse.SUPPRESS)  # of the process that measures
    given = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(given)
    if options.in_process:
        return measure(options)
    return supervise([sys.executable, "-m", "benchmarks.gpu", *given, "--in_process"], options.parts, options.minutes)


def measure(options: argparse.Namespace) -> int:
    """Print the page, part by part, in this process; the exit status."""
    device = resolve_device(options.device)
    print(f"# GPU\n\n{made_by(device)}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in options.parts:
            print(f"\n{_HEADING}{name}\n", flush=True)
            started = time.perf_counter()
            try:
                text = PARTS[name](options, device)
            except Exception:
                failed = 1
                text = f"**This part failed:**\n\n```\n{traceback.format_exc()}```"
            print(f"{text}\n\nThis part took {time.perf_counter() - started:.0f} s.", flush=True)
            _forget(device)  # raises where the GPU has failed: the next part needs another process
    return failed


def supervise(command: Sequence[str], parts: Sequence[str], minutes: float) -> int:
    """Print what `command` prints with `--parts`. Where a part ends the process or takes too long, the next ones get a
    new process, until the time is over. Returns the exit status.
    """
    deadline, status, left = time.monotonic() + 60 * minutes, 0, list(parts)
    seconds = _PART_SECONDS if len(left) > 1 else 60 * minutes
    while left:
        ended, begun = _run_parts([*command, "--parts", *left], seconds, deadline, with_title=left == list(parts))
        status |= ended != 0
        if begun is None:  # why is said on stderr
            return 1
        if ended not in (0, 1):
            print(f"\n**This part took too long, or ended its process (status {ended}).**", flush=True)
        left = left[left.index(begun) + 1 :]
        if left and time.monotonic() >= deadline:
            print(f"\nNo time was left for: {', '.join(left)}.")
            return 1
    return status


def _run_parts(command: Sequence[str], seconds: float, deadline: float, *, with_title: bool) -> tuple[int, str | None]:
    """Print the parts that a process measures, which have so many `seconds` each; its exit status, and the last part
    that it began (None: none).
    """
    begun = None
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has started

        def limit() -> threading.Timer:
            timer = threading.Timer(max(0.0, min(seconds, deadline - time.monotonic())), end)
            timer.start()
            return timer

        timer = limit()
        try:
            for line in process.stdout or ():
                if line.startswith(_HEADING):
                    begun = line.removeprefix(_HEADING).strip()
                    timer.cancel()
                    timer = limit()
                if with_title or begun is not None:
                    print(line, end="", flush=True)
            status = process.wait()
        except BaseException:  # Ctrl-C does not reach a session of its own
            end()
            raise
        finally:
            timer.cancel()
    return status, begun


# The generator


def generator_table(options: argparse.Namespace, device: torch.device) -> str:
    """Each model beside the stock generator, in interleaved rounds after a first one that warms up."""

    def generators(model: "_Model") -> "_Generators":
        return {precision: model.generator(precision) for precision in options.precisions}

    return _beside_stock(generators, options, device)


def compiled_table(options: argparse.Namespace, device: torch.device) -> str:
    """As `generator_table`, compiled."""

    def generators(model: "_Model") -> "_Generators":
        compiled = AutomaticMaskGenerator(model.sam, model.settings("auto"))
        started, frames = time.perf_counter(), torch._dynamo.utils.counters["frames"]
        frames.clear()
        compiled.compile()
        took = f"{frames['ok']} of {frames['total']} functions compiled in {time.perf_counter() - started:.0f} s"
        compiled.decoder = OracleDecoder(compiled.decoder, model.lookup)
        return {f"{compiled.precision}, {took}": compiled}

    return _beside_stock(generators, options, device)


def _beside_stock(
    generators: Callable[["_Model"], "_Generators"], options: argparse.Namespace, device: torch.device
) -> str:
    rows: list[Sequence[object]] = []
    for model_type in options.model_types:
        model = _Model(model_type, options, device)
        runs = {"stock": model.stock_masks}
        runs |= {name: functools.partial(_masks, made, model.image) for name, made in generators(model).items()}
        measured = _interleaved(runs, options.rounds, device)
        stock = statistics.median(run.seconds for run in measured["stock"])
        for name, results in measured.items():
            seconds, peak = statistics.median(run.seconds for run in results), max(run.peak for run in results)
            equal = equal_pixels(measured["stock"][-1].masks, results[-1].masks)
            cells = f"{1000 * seconds:.1f}", f"{stock / seconds:.1f}", f"{peak / 2**20:.0f}", len(results[-1].masks)
            rows.append((model.name, name, *cells, f"{equal:.5f}"))
        del model, runs, measured
        _forget(device)
    header = "model", "generator", "ms an image", "times stock", "peak MiB, weights apart", "masks", "label map equal"
    return markdown_table(header, rows, text_columns=2)


def parts_of_an_image(options: argparse.Namespace, device: torch.device) -> str:
    """Where the time of one image goes, and what passes between GPU and CPU, for each model in its fast precision."""
    rows = []
    for model_type in options.model_types:
        rows.append(_parts(_Model(model_type, options, device), options, device))
        _forget(device)
    header = "model", "precision", "points at once", "encoder, ms", "decoder", "decoder, all masks upsampled"
    return markdown_table((*header, "everything", "MB to the CPU", "waits"), rows, text_columns=2)


def _parts(model: "_Model", options: argparse.Namespace, device: torch.device) -> Sequence[object]:
    generator, plain = model.generator("auto"), AutomaticMaskGenerator(model.sam, model.settings("auto"))
    begun = plain.begin(model.image)
    context = plain.decoder.prepare(begun.features, begun.crops[0].frame.input_size)
    at_once = plain._points_at_once(begun.features)
    points = torch.rand((options.points_per_side**2, 2), device=device).double() * min(model.image.shape[:2])

    @torch.no_grad()
    def decode(upsample: bool) -> None:
        for batch in points.split(at_once):
            decoded = plain.decoder.decode(context, batch)
            if upsample:
                decoded.logits(torch.arange(decoded.predicted_ious.numel()))

    steps: tuple[Callable[[], object], ...] = (
        lambda: plain.begin(model.image),
        lambda: decode(False),
        lambda: decode(True),
        lambda: generator.generate(model.image),
    )
    times = [f"{_milliseconds(step, device):.1f}" for step in steps]
    with counted() as traffic:
        generator.generate(model.image)
    return (model.name, plain.precision, at_once, *times, f"{traffic.bytes_to_host / 1e6:.2f}", traffic.waits)


def profile(options: argparse.Namespace, device: torch.device) -> str:
    """The ten operations that take longest on the GPU, of one image with the first model."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    model = _Model(options.model_types[0], options, device)
    generator = model.generator("auto")
    generator.generate(model.image)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profiler(activities=activities) as profiled:
        generator.generate(model.image)
        _synchronize(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return f"```\n{profiled.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60)}\n```"


# The commands


def precompute_rate(options: argparse.Namespace, device: torch.device) -> str:
    """`precompute_masks.py` with a file of random weights of the first model: its rate beside the generator's own."""
    model = _Model(options.model_types[0], options, device)
    name, lookup = model.name, model.lookup
    data, checkpoint = _pairs(options.images // 2, model.image), _random_weights(name, device)
    own = 1000 / _milliseconds(functools.partial(model.generator("auto").generate, model.image), device)
    del model
    _forget(device)
    build = precompute_command._build_generator

    def with_look_up(*arguments: Any) -> AutomaticMaskGenerator:
        made = build(*arguments)
        made.decoder = OracleDecoder(made.decoder, lookup)
        return made

    argv = ["--dataset_path", str(data), "--sam_model_type", name, "--sam_checkpoint", str(checkpoint)]
    argv += ["--output_dir", "masks", "--device", str(device), "--precision", "auto"]
    argv += ["--points_per_side", str(options.points_per_side), "--thermal_points", "0", "--compile", "off"]
    with mock.patch.object(precompute_command, "_build_generator", with_look_up), gpu_use() as used:
        started = time.perf_counter()
        said = _run(precompute.main, argv)
        whole = time.perf_counter() - started
    peak = _peak(device) - lookup.nbytes
    found = re.search(r"masks made: (\d+) in ([\d.]+) s", said)
    assert found is not None, said
    count, seconds = int(found[1]), float(found[2])
    rates = f"{own:.2f}", f"{count / seconds:.2f}", f"{count / seconds / own:.2f}"
    header = "model", "images", "generator alone, images/s", "command, images/s", "share", "start and end, s"
    row = name, count, *rates, f"{whole - seconds:.1f}", busy(used), f"{peak / 2**20:.0f}"
    return markdown_table((*header, "GPU busy", "peak MiB"), [row])


def training(options: argparse.Namespace, device: torch.device) -> str:
    """`train.py` without masks, with precomputed and with live ones: `train_modes` in this process."""
    rows = []
    for mode in ("prepare", *train_modes.MODES):
        _forget(device)
        arguments = argparse.Namespace(
            device=str(device), dataset_path=ROOT / "datasets" / "sample" / "train", sam_model_type="vit_nano",
            sam_checkpoint=ROOT / "models" / "vit_nano.safetensors", network="thfuse_lite", batch_size=2,
            crop_size=128, steps=3, measure=mode, masks=Path("train_masks"),
        )  # fmt: skip
        figures = train_modes.measure(arguments)
        if mode != "prepare":
            rows.append((mode, f"{figures['images_per_second']:.1f}", f"{figures['peak_gpu'] / 2**20:.0f}"))
    return markdown_table(("masks", "pairs/s", "peak MiB"), rows)


def tuning(options: argparse.Namespace, device: torch.device) -> str:
    """`finetune.py` on a model of random weights: the second epoch's speed. LoRA only where peft is installed."""
    data, checkpoint = _annotated(options), _random_weights(options.tuned_model_type, device)
    rows = []
    precisions = [name for name in options.precisions if name != "fp32" or device.type == "cpu"]
    kinds = [(name, flags) for name, flags in TUNINGS.items() if name != "LoRA" or find_spec("peft") is not None]
    for (name, flags), precision in itertools.product(kinds, precisions):
        _forget(device)
        folder = f"{name}_{precision}"
        argv = ["--data_dir", str(data), "--checkpoint", str(checkpoint), "--num_epochs", "2", *flags]
        argv += ["--precision", precision, "--device", str(device), "--output_dir", "tuned", "--exp_name", folder]
        _run(finetune.main, [*argv, "--num_workers", "0"])
        with Path("tuned", folder, "train_log.csv").open(newline="") as log:
            *_, last = csv.DictReader(log)
        rows.append((name, precision, f"{float(last['images_per_second']):.2f}", f"{_peak(device) / 2**20:.0f}"))
    return markdown_table(("trained", "precision", "images/s", "peak MiB"), rows, text_columns=2)


def prediction(options: argparse.Namespace, device: torch.device) -> str:
    """`predict.py` with a point on every image of a folder, start included."""
    data, checkpoint = _annotated(options), _random_weights(options.tuned_model_type, device)
    argv = ["--input", str(data / "PNGImages"), "--checkpoint", str(checkpoint), "--points", "15,10"]
    started = time.perf_counter()
    _run(predict.main, [*argv, "--output_dir", "predicted", "--device", str(device)])
    count = len(list(Path("predicted").glob("*.npy")))
    return f"{count} images in {time.perf_counter() - started:.1f} s, start included."


def fusing(options: argparse.Namespace, device: torch.device) -> str:
    """`test.py`, start included, on pairs of two sizes, and of the first with metrics, which CPU cores compute."""
    rows = []
    height, width = options.size
    large = height * 9 // 4, width * 3
    for number, (size, flags) in enumerate((((height, width), []), (large, []), ((height, width), ["--metrics"]))):
        image = cv2.resize(_image(options), size[::-1]).astype(np.uint8)
        data = _pairs(max(1, options.images // 10), image, f"pairs_{number}")
        started = time.perf_counter()
        argv = ["--dataset_path", str(data), "--precomputed_masks_dir", "none", "--output_dir", f"fused_{number}"]
        _run(test.main, [*argv, *flags, "--device", str(device)])
        seconds, count = time.perf_counter() - started, len(list((data / "ir").iterdir()))
        name = " ".join([f"{size[1]}x{size[0]}", *flags])
        rows.append((name, count, f"{seconds:.1f}", f"{_peak(device) / 2**20:.0f}"))
        _forget(device)
    return markdown_table(("size", "pairs", "s, start included", "peak MiB"), rows)


def video(options: argparse.Namespace, device: torch.device) -> str:
    """Decoding, fusing and encoding, all in one process, of clips of two sizes."""
    rows = []
    height, width = options.size
    frames = max(2, options.images // 2)
    for size in ((height, width), (height * 9 // 4, width * 3)):
        image, folder = cv2.resize(_image(options), size[::-1]), Path(f"clip_{size[0]}")
        folder.mkdir()
        for modality in MODALITIES:
            writer = VideoWriter(folder / f"{modality}.mp4", choose_codec(Path("x.mp4"), "auto"))
            for number in range(frames):
                writer.write((image * (0.7 + 0.3 * number / frames)).astype(np.uint8), number / FPS)
            writer.close()
        for model in ("thfuse_lite", "thfuse_tiny"):
            _, cpu, rate = fuse_files(folder, 0.3, model=model, device=device)
            rows.append((f"{size[1]}x{size[0]}", model, f"{rate:.1f}", f"{cpu:.0f}"))
    return markdown_table(("size", "network", "frames a second", "CPU ms a frame"), rows)


def fusion_networks(options: argparse.Namespace, device: torch.device) -> str:
    """The network that ships, alone, beside the layers of another one."""
    shipped, _ = load_network(ROOT / "models" / "thfuse_lite.safetensors")
    networks = {"thfuse_lite": shipped, OTHER: SeAFusionLayers().eval()}
    with torch.no_grad():
        return gpu_table(networks, (options.size[0], options.size[1]), device)


def test_suite(options: argparse.Namespace, device: torch.device) -> str:
    """The tests of all commands on a GPU, on this one in place of the pretended one."""
    # What a driver warns of is no failure.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
    command.append("tests/reliability/test_cuda.py")
    environment = {**os.environ, "THFUSE_REAL_CUDA": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    text = "\n".join((done.stdout or done.stderr).splitlines()[-15:])
    if done.returncode:
        raise RuntimeError(text)
    return f"```\n{text}\n```"


PARTS: dict[str, Callable[[argparse.Namespace, torch.device], str]] = {
    "The generator beside stock": generator_table,
    "Parts of an image": parts_of_an_image,
    "precompute_masks.py": precompute_rate,
    "Fusion networks": fusion_networks,
    "test.py": fusing,
    "Video": video,
    "train.py": training,
    "predict.py": prediction,
    "finetune.py": tuning,
    "Tests": test_suite,
    "The compiled generator beside stock": compiled_table,
    "Profile": profile,
}


# Models, images, measuring


class _Model:
    """A model of random weights and the look-up for its decoder, on `device`."""

    _lookups: ClassVar[dict[tuple[int, ...], LookUp]] = {}  # on the CPU; making one takes seconds

    def __init__(self, name: str, options: argparse.Namespace, device: torch.device) -> None:
        self.name = name
        self.image = _image(options)
        self._points_per_side = options.points_per_side
        self.sam = _build(name, device)
        kind = self.sam.image_encoder.img_size, options.points_per_side, *options.size
        if kind not in self._lookups:
            self._lookups[kind] = LookUp(self.image, self.sam, self.settings("fp32"))
        self.lookup = copy.copy(self._lookups[kind]).to(device)

    def settings(self, precision: Any) -> GeneratorSettings:
        return GeneratorSettings(points_per_side=self._points_per_side, points_per_batch="auto", precision=precision)

    def generator(self, precision: str) -> AutomaticMaskGenerator:
        return self.lookup.generator(self.sam, self.settings(precision))

    def stock_masks(self) -> Masks:
        records = stock_masks(self.sam, self.image, self.lookup, {"points_per_side": self._points_per_side})
        return [record["segmentation"] for record in records]


def _build(model_type: str, device: torch.device) -> Sam:
    torch.manual_seed(0)
    with device:  # a CPU would take many seconds for random weights
        sam = MODEL_TYPES[model_type].build()
    return sam.eval().to(device)  # also what it makes on the CPU in any case


def _random_weights(model_type: str, device: torch.device) -> Path:
    path = Path(f"{model_type}.pth")
    if not path.exists():
        torch.save({name: value.cpu() for name, value in _build(model_type, device).state_dict().items()}, path)
    return path


def _image(options: argparse.Namespace) -> ImageArray:
    height, width = options.size
    image = cv2.resize(read_for_sam(SAMPLE, "vi"), (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def _pairs(count: int, image: ImageArray, name: str = "pairs") -> Path:
    """Pairs that differ in brightness."""
    for number in range(count):
        darker = (image * (0.7 + 0.3 * number / count)).astype(np.uint8)
        for modality in MODALITIES:
            write_image(Path(name, modality, f"{number:04d}.png"), darker)
    return Path(name)


def _annotated(options: argparse.Namespace) -> Path:
    """Eight images with one object each, as in Penn-Fudan."""
    image, data = _image(options), Path("annotated")
    height, width = options.size
    for number in range(8):
        labels = np.zeros((height, width), np.uint8)
        labels[8 : height // 2, 8 + number : width // 2] = 1
        for folder, name, pixels in (("PNGImages", f"{number}", image), ("PedMasks", f"{number}_mask", labels)):
            (data / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(data / folder / f"{name}.png")
    return data


def _masks(generator: AutomaticMaskGenerator, image: ImageArray) -> Masks:
    return [instance.mask for instance in generator.generate(image)]


class _Result(NamedTuple):
    seconds: float
    peak: int  # bytes, without what lay there before, such as weights
    masks: Masks


def _interleaved(runs: dict[str, Callable[[], Masks]], rounds: int, device: torch.device) -> dict[str, list[_Result]]:
    """The results of each run, in `rounds` rounds after a first one that warms up."""
    measured: dict[str, list[_Result]] = {name: [] for name in runs}
    for number, (name, run) in itertools.product(range(rounds + 1), runs.items()):
        _forget(device)
        before = _peak(device)
        started = time.perf_counter()
        masks = run()
        _synchronize(device)
        if number:
            measured[name].append(_Result(time.perf_counter() - started, _peak(device) - before, masks))
    return measured


def _milliseconds(work: Callable[[], object], device: torch.device, runs: int = 3) -> float:
    """The mean of a few runs in a row after a first one."""
    work()
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(runs):
        work()
    _synchronize(device)
    return (time.perf_counter() - started) / runs * 1000


def _run(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> str:
    """Run a command; returns what it said. Raises RuntimeError with that text where it failed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = command(argv)
    if status:
        raise RuntimeError(f"exit status {status}: {said.getvalue()[-2000:]}")
    return said.getvalue()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    """Free what is unused, so that the next peak is the next work's own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    sys.exit(main())
