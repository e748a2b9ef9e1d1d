"""The page of `thfuse-app`, in Gradio: what is shown and what happens on a click. All work is the session's."""

import contextlib
import dataclasses
import html
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import ThFuseError
from thfuse_sam.files import make_directory
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.fusing import FusedPair, require_outputs_apart
from thfuse_sam.fusion.session import FusedView, FusionSession, MaskThresholds, OpenPair
from thfuse_sam.images import IMAGE_SUFFIXES, ImageArray, as_rgb, read_visible, write_image
from thfuse_sam.masks.overlay import draw_overlay

CSS = """
.gradio-container { width: 100%; max-width: 1280px !important; margin: auto; }
#status p { margin: 0; font-size: var(--text-md); }
#status .problem, #folder_status .problem {
  margin: 0; padding: .6rem .8rem; border-left: 4px solid #dc2626; background: rgba(220, 38, 38, .12);
}
#folder_status p, #folder_status ul { margin: 0 0 .4rem; overflow-wrap: anywhere; }
#samples .caption-label { display: none; }
#samples .grid-wrap, #fused .grid-wrap { min-height: 0; max-height: none; }
#samples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); }
/* A file's name in full instead of its first letter and its suffix. */
#ir_file .file, #ir_file td, #vi_file .file, #vi_file td { display: block; width: auto; max-width: none; }
#ir_file .filename, #vi_file .filename { white-space: normal; overflow-wrap: anywhere; }
/* Text whose colour no setting of the look reaches. */
.min_value, .max_value { color: var(--block-info-text-color) !important; }
button[role=tab].selected { color: var(--link-text-color) !important; }
"""
# Where text in the look's own colours has a contrast below 4.5:1.
_COLOURS = {
    "block_label_text_color": "*primary_800",
    "block_title_text_color": "*primary_800",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_700",
    "checkbox_label_background_fill_selected_dark": "*primary_700",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "body_background_fill": "*neutral_50",
}
_COMPARISONS = {
    "Infrared | Fused": ("infrared", "fused"),
    "Visible | Fused": ("visible", "fused"),
    "Infrared | Visible": ("infrared", "visible"),
}
_START = "Drop an infrared and a visible image, or pick a sample."
_PREVIEW_PIXELS = 1600  # longer side; a browser shows no more, and the download has all
_THUMBNAIL_PIXELS = 320
_FOLDER_PICTURES = 12  # of the folder's first fused images
_QUEUE = "fusing"  # one thing at a time: they share the network

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class _Current:
    """What a visitor looks at. Pictures are reduced to `_PREVIEW_PIXELS`."""

    pair: OpenPair
    pictures: dict[str, ImageArray]
    folder: Path  # of the file to download


class _Stopped(Exception):
    """The visitor has stopped the folder."""


def theme() -> Any:
    """Gradio's look with fonts that every system has; its own ones would come from the network."""
    look = gr.themes.Soft(
        primary_hue="blue",
        font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return look.set(**_COLOURS)


def build_page(
    session: FusionSession,
    samples: Sequence[ImagePair],
    files: Path,
    *,
    folders: bool,
    facts: str,
    cache_seconds: int,
) -> gr.Blocks:
    """The page; arguments as for `app.build_app`. Gradio removes files older than `cache_seconds`."""
    with gr.Blocks(title="TH-Fuse-SAM", analytics_enabled=False, delete_cache=(cache_seconds, cache_seconds)) as page:
        gr.Markdown(f"# TH-Fuse-SAM\nFuse an infrared and a visible image of the same scene. {facts}.")
        if not folders:
            _build_pair(session, samples, files)
            return page
        with gr.Tab("One pair"):
            thresholds, colour = _build_pair(session, samples, files)
        with gr.Tab("A folder"):
            _build_folder(session, thresholds, colour)
    return page


def _build_pair(session: FusionSession, samples: Sequence[ImagePair], files: Path) -> tuple[list[Any], Any]:
    """Everything for one pair. Returns the sliders, in the order of `MaskThresholds`, and the colour switch."""
    current = gr.State(None, delete_callback=_forget)
    limits = f"up to {session.limits.max_bytes / 2**20:g} MiB and {session.limits.max_pixels / 1e6:g} megapixels"
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                ir_file, vi_file = (
                    gr.File(
                        label=label, file_types=list(IMAGE_SUFFIXES), type="filepath", height=180, min_width=130,
                        elem_id=name,
                    )
                    for label, name in (("Infrared", "ir_file"), ("Visible", "vi_file"))
                )  # fmt: skip
            gr.Markdown(f"PNG, JPEG, BMP or TIFF of equal size, {limits}.")
            gallery = _samples_gallery(samples)
            with gr.Accordion("Mask thresholds", open=True):
                thresholds = _sliders(session.thresholds)
                defaults = gr.Button("Defaults", size="sm")
            colour = gr.Checkbox(True, label="Keep the visible image's colour")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(_line(_START), elem_id="status")
            choice = gr.Radio(list(_COMPARISONS), value="Infrared | Fused", label="Compare (left | right)")
            slider = gr.ImageSlider(
                label="Drag the divider", format="png", interactive=False, elem_id="divider", buttons=["fullscreen"]
            )
            download = gr.DownloadButton(
                "Download the fused image (PNG, full size)", interactive=False, variant="primary", elem_id="download"
            )
            with gr.Row():
                overlays = [
                    gr.Image(
                        label=f"Masks of the {name} image", format="png", interactive=False, min_width=200,
                        buttons=["fullscreen"], elem_id=f"{name}_masks",
                    )
                    for name in ("infrared", "visible")
                ]  # fmt: skip

    results = [current, status, slider, download, *overlays]
    settings = [choice, colour, *thresholds]

    def show(pair: OpenPair, folder: Path, choice: str, colour: bool, values: Sequence[float]) -> list[Any]:
        view = session.fuse(pair, MaskThresholds(*values), gray=not colour)
        path = folder / f"{pair.name}_fused.png"
        write_image(path, view.fused)
        images = {"infrared": pair.infrared, "visible": pair.visible, "fused": view.fused}
        pictures = {name: _reduced(image, _PREVIEW_PIXELS) for name, image in images.items()}
        drawn = [_overlay(pair.infrared, view.ir_labels), _overlay(pair.visible, view.vi_labels)]
        return [
            _Current(pair, pictures, folder),
            _view_line(view),
            _compared(pictures, choice),
            gr.update(value=str(path), interactive=True),
            *drawn,
        ]

    def open_pair(
        old: _Current | None, ir: str | None, vi: str | None, choice: str, colour: bool, *values: float
    ) -> list[Any]:
        _forget(old)
        if ir is None and vi is None:
            return _nothing(_START)
        if ir is None or vi is None:
            missing = "an infrared" if ir is None else "a visible"
            return _nothing(f"Now drop {missing} image of the same scene.")
        folder = files / uuid.uuid4().hex
        try:
            with _explained():
                return show(session.open(Path(ir), Path(vi)), folder, choice, colour, values)
        except gr.Error as error:
            return _nothing(str(error.message), problem=True)

    def change(current: _Current | None, choice: str, colour: bool, *values: float) -> Any:
        if current is None:
            return [gr.skip() for _ in results]
        try:
            with _explained():
                return show(current.pair, current.folder, choice, colour, values)
        except gr.Error as error:
            return [gr.skip(), _line(str(error.message), problem=True), *[gr.skip()] * 4]

    def pick(old: _Current | None, choice: str, colour: bool, *rest: Any) -> Any:
        *values, event = rest
        pair = samples[event.index]
        return [str(pair.ir), str(pair.vi), *open_pair(old, str(pair.ir), str(pair.vi), choice, colour, *values)]

    one: dict[str, Any] = {"concurrency_id": _QUEUE, "concurrency_limit": 1, "api_visibility": "private"}
    inputs = [current, ir_file, vi_file, *settings]
    for file in (ir_file, vi_file):
        file.upload(open_pair, inputs, results, **one)
        file.clear(open_pair, inputs, results, **one)
    if gallery is not None:

        def picked(event: gr.SelectData, *given: Any) -> Any:
            return pick(*given, event)

        gallery.select(picked, [current, *settings], [ir_file, vi_file, *results], **one)
    for control in (*thresholds, colour):
        # Only the last position matters while the slider moves.
        control.change(change, [current, *settings], results, trigger_mode="always_last", **one)
    choice.change(
        lambda current, choice: gr.skip() if current is None else _compared(current.pictures, choice),
        [current, choice], slider, queue=False, api_visibility="private",
    )  # fmt: skip
    default_values = dataclasses.astuple(session.thresholds)
    defaults.click(lambda: default_values, None, thresholds, queue=False, api_visibility="private")
    return thresholds, colour


def _build_folder(session: FusionSession, thresholds: Sequence[Any], colour: Any) -> None:
    """Fusing all pairs of a folder of this machine, with the sliders of the other tab."""
    gr.Markdown(
        "Paths are of the machine that runs this app. Masks are made by the thresholds of the other tab; "
        "existing files of the same names in the output folder are replaced."
    )
    source = gr.Textbox(label="Folder of pairs", placeholder="/data/pairs, with ir/ and vi/ in it", elem_id="source")
    target = gr.Textbox(label="Output folder", placeholder="/data/fused", elem_id="target")
    with gr.Row():
        start = gr.Button("Fuse the folder", variant="primary", elem_id="start")
        stop = gr.Button("Stop")
    status = gr.HTML(elem_id="folder_status")
    pictures = gr.Gallery(
        label=f"Fused images, the first {_FOLDER_PICTURES}",
        columns=4,
        object_fit="contain",
        format="jpeg",
        interactive=False,
        height="auto",
        elem_id="fused",
    )
    stopping = threading.Event()

    def run(source: str, target: str, colour: bool, *values: float, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        stopping.clear()
        shown: list[tuple[ImageArray, str]] = []
        done = 0
        try:
            with _explained():
                folder, output = _given(source, "folder of pairs"), _given(target, "output folder")
                pairs = find_pairs(folder)
                require_outputs_apart(pairs.pairs, output)
                make_directory(output)

                def observe(seen: FusedPair) -> None:
                    nonlocal done
                    done += 1
                    progress((done, len(pairs.pairs)), unit="pairs")
                    if len(shown) < _FOLDER_PICTURES:
                        image = add_colour(seen.fused, seen.visible) if colour else seen.fused
                        shown.append((_reduced(image, 2 * _THUMBNAIL_PIXELS), seen.pair.name))
                    if stopping.is_set():
                        raise _Stopped

                report = session.fuse_folder(pairs, output, MaskThresholds(*values), observe, gray=not colour)
        except _Stopped:
            return _line(f"Stopped after {done} of {len(pairs.pairs)} pairs; they are in {output}."), shown
        except gr.Error as error:
            return _line(str(error.message), problem=True), shown
        text = _line(f"{len(report.fused)} of {len(pairs.pairs)} pairs fused to {output} in {report.seconds:.1f} s.")
        unmatched = [f"{path}: no partner, left out" for path in (*pairs.unpaired_ir, *pairs.unpaired_vi)]
        return text + _list([*(f"{name}: {why}" for name, why in report.failures.items()), *unmatched]), shown

    start.click(
        run, [source, target, colour, *thresholds], [status, pictures], show_progress_on=[pictures],
        concurrency_id=_QUEUE, concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    stop.click(stopping.set, None, None, queue=False, api_visibility="private")


def _sliders(defaults: MaskThresholds) -> list[Any]:
    texts = {
        "pred_iou_thresh": ("Predicted IoU", "higher: only masks that SAM is sure of"),
        "stability_score_thresh": ("Stability", "higher: only masks with clear borders"),
        "box_nms_thresh": ("NMS", "IoU of boxes; lower: fewer overlapping masks"),
    }
    return [
        gr.Slider(0, 1, value=getattr(defaults, name), step=0.01, label=label, info=info, elem_id=name)
        for name, (label, info) in texts.items()
    ]


def _samples_gallery(samples: Sequence[ImagePair]) -> Any:
    if not samples:
        return None
    pictures = [(_reduced(read_visible(pair.vi), _THUMBNAIL_PIXELS), pair.name) for pair in samples]
    gr.Markdown("Or a sample:")
    return gr.Gallery(
        pictures,
        label="Samples",
        show_label=False,
        columns=4,
        height="auto",
        allow_preview=False,
        interactive=False,
        format="jpeg",
        buttons=[],
        elem_id="samples",
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn an error that a visitor can act on into one with a plain message."""
    try:
        yield
    except ThFuseError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except torch.cuda.OutOfMemoryError as error:
        raise gr.Error("out of GPU memory; use smaller images", print_exception=False) from error
    except OSError as error:
        raise gr.Error(f"{error.strerror or error}; upload the images again", print_exception=False) from error


def _given(text: str, what: str) -> Path:
    if not text.strip():
        raise gr.Error(f"name the {what}", print_exception=False)
    return Path(text.strip()).expanduser()


def _forget(current: _Current | None) -> None:
    """Remove the file to download of a pair that nobody looks at any more."""
    if current is not None:
        shutil.rmtree(current.folder, ignore_errors=True)


def _nothing(message: str, *, problem: bool = False) -> list[Any]:
    return [None, _line(message, problem=problem), None, gr.update(value=None, interactive=False), None, None]


def _compared(pictures: dict[str, ImageArray], choice: str) -> tuple[ImageArray, ImageArray]:
    left, right = _COMPARISONS[choice]
    return pictures[left], pictures[right]


def _overlay(image: ImageArray, label_map: Any) -> ImageArray:
    return _reduced(draw_overlay(as_rgb(image), label_map), _PREVIEW_PIXELS)


def _reduced(image: ImageArray, longest: int) -> ImageArray:
    """The image, scaled down where its longer side has more pixels."""
    if max(image.shape[:2]) <= longest:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _view_line(view: FusedView) -> str:
    height, width = view.fused.shape[:2]
    counts = [np.count_nonzero(np.bincount(labels.ravel())[1:]) for labels in (view.ir_labels, view.vi_labels)]
    return _line(
        f"{width}×{height} pixels. Segments: {counts[0]} infrared, {counts[1]} visible, "
        f"made in {view.mask_seconds:.2f} s. Fused in {view.fuse_seconds:.2f} s."
    )


def _line(text: str, *, problem: bool = False) -> str:
    """A paragraph of text that may hold names of files: escaped."""
    attributes = ' class="problem" role="alert"' if problem else ' role="status"'
    return f"<p{attributes}>{html.escape(text)}</p>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>" if lines else ""
