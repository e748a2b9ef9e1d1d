"""The page of `thfuse-app`, in Gradio: what is shown and what happens on a click. The session does the fusing."""

import contextlib
import dataclasses
import functools
import html
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.errors import ThFuseError, counted
from thfuse_sam.files import make_directory
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.emphasis import EmphasisPlan
from thfuse_sam.fusion.fusing import FusedPair, require_outputs_apart
from thfuse_sam.fusion.session import FusedView, FusionSession, MaskThresholds, OpenPair
from thfuse_sam.images import (
    IMAGE_SUFFIXES,
    MODALITIES,
    ImageArray,
    Modality,
    as_rgb,
    luma,
    read_visible,
    write_image,
)
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.options.fuse import Emphasis
from thfuse_sam.report.pictures import shrink
from thfuse_sam.report.register import edges_over, register_pictures

# Replacements for those colours of the theme on which text has a contrast below 4.5:1.
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
    "Fused alone": ("fused", "fused"),
    "Infrared edges before | after alignment": ("before", "after"),
}
_EMPHASES: dict[str, Emphasis | None] = {
    "Prefer infrared": "ir",
    "Prefer visible": "vi",
    "Brighter": "brighter",
    "No lift": "neutral",
    "As it is": None,
}
_START = "Drop an infrared and a visible image, or pick a sample."
_PREVIEW_PIXELS = 1600  # longer side of a picture on the page; the download has full size
_THUMBNAIL_PIXELS = 320
_FOLDER_PICTURES = 12  # how many of a folder's fused images are shown
_QUEUE = "fusing"  # name of the queue; one job at a time, because all share the network

Sams = Mapping[str, Callable[[], FusionSession]]  # name of a Segment Anything model -> loads it, or has it already


@dataclasses.dataclass(frozen=True, eq=False)
class _Current:
    """The pair that a visitor looks at. Its pictures are reduced to `_PREVIEW_PIXELS`."""

    session: FusionSession
    pair: OpenPair
    folder: Path  # of the file to download
    settings: tuple[bool, tuple[float, ...]]  # colour and thresholds
    view: FusedView
    # What the visitor has chosen for segments, by modality and label.
    choices: Mapping[tuple[Modality, int], Emphasis] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, ImageArray] = dataclasses.field(default_factory=dict)


class _Stopped(Exception):
    """The visitor has stopped the fusing of a folder."""


def theme() -> Any:
    """Gradio's theme with fonts that every system has; its own fonts would be loaded from the network."""
    look = gr.themes.Soft(
        primary_hue="blue",
        font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return look.set(**_COLOURS)


def build_page(
    sams: Sams, samples: Sequence[ImagePair], files: Path, *, folders: bool, facts: str, cache_seconds: int
) -> gr.Blocks:
    """The page; arguments as for `app.build_app`. Gradio removes files older than `cache_seconds`."""
    with gr.Blocks(title="TH-Fuse-SAM", analytics_enabled=False, delete_cache=(cache_seconds, cache_seconds)) as page:
        gr.Markdown(f"# TH-Fuse-SAM\nFuse an infrared and a visible image of the same scene. {facts}.")
        if not folders:
            _PairTab(sams, samples, files)
            return page
        with gr.Tab("One pair"):
            pair = _PairTab(sams, samples, files)
        with gr.Tab("A folder"):
            _FolderTab(sams, [pair.colour, pair.sam, *pair.thresholds])
    return page


class _PairTab:
    """The tab for one pair: files or a sample, thresholds, the fused image beside its sources, masks, download.

    Attributes:
        thresholds: the sliders, in the order of the fields of `MaskThresholds`.
        colour: the checkbox that keeps the visible image's colour.
        sam: the list of models.
    """

    def __init__(self, sams: Sams, samples: Sequence[ImagePair], files: Path) -> None:
        self._sams = sams
        self._session = next(iter(sams.values()))()
        self._samples = samples
        self._files = files
        self._current = gr.State(None, delete_callback=_forget)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._build_inputs()
            with gr.Column(scale=3, min_width=320):
                self._build_results()
        self._connect()

    def _build_inputs(self) -> None:
        bounds = self._session.limits
        with gr.Row():
            self._ir_file, self._vi_file = (
                gr.File(
                    label=label,
                    file_types=list(IMAGE_SUFFIXES),
                    type="filepath",
                    height=180,
                    min_width=130,
                    elem_id=name,
                )
                for label, name in (("Infrared", "ir_file"), ("Visible", "vi_file"))
            )
        with gr.Row():
            self._thumbnails = [
                gr.Image(
                    label=f"{name} image",
                    show_label=False,
                    container=False,
                    format="jpeg",
                    height=110,
                    min_width=130,
                    interactive=False,
                    buttons=[],
                    elem_id=f"{name}_thumbnail",
                )
                for name in ("ir", "vi")
            ]
        self._swap = gr.Button("Swap infrared and visible", size="sm", elem_id="swap")
        gr.Markdown(
            f"PNG, JPEG, BMP, TIFF or WebP, up to {bounds.max_bytes / 2**20:g} MiB and "
            f"{bounds.max_pixels / 1e6:g} megapixels."
        )
        self._gallery = _samples_gallery(self._samples)
        names = list(self._sams)
        self.sam = gr.Dropdown(names, value=names[0], label="Segment Anything model", elem_id="sam")
        with gr.Accordion("Mask thresholds", open=True):
            self.thresholds = _sliders(self._session.thresholds)
            self._defaults = gr.Button("Defaults", size="sm")
        self.colour = gr.Checkbox(True, label="Keep the visible image's colour")

    def _build_results(self) -> None:
        status = gr.HTML(_line(_START), elem_id="status")
        self._choice = gr.Radio(list(_COMPARISONS), value="Infrared | Fused", label="Compare (left | right)")
        self._slider = gr.ImageSlider(
            label="Drag the divider", format="png", interactive=False, elem_id="divider", buttons=["fullscreen"]
        )
        download = gr.DownloadButton(
            "Download the fused image (PNG, full size)", interactive=False, variant="primary", elem_id="download"
        )
        self._emphasis = gr.Radio(
            list(_EMPHASES), value="Brighter", label="What a click on a segment of a mask does", elem_id="emphasis"
        )
        with gr.Row():
            self._overlays = [
                gr.Image(
                    label=f"Masks of the {name} image",
                    format="png",
                    interactive=False,
                    min_width=200,
                    buttons=["fullscreen"],
                    elem_id=f"{name}_masks",
                )
                for name in ("infrared", "visible")
            ]
        self._results = [self._current, status, self._slider, download, *self._overlays]

    def _connect(self) -> None:
        """Connect each control with the function that it calls."""
        one: dict[str, Any] = {"concurrency_id": _QUEUE, "concurrency_limit": 1, "api_visibility": "private"}
        settings = [self._current, self._choice, self.colour, self.sam, *self.thresholds]
        files = [self._ir_file, self._vi_file]
        inputs = [self._current, *files, *settings[1:]]
        for file in files:
            file.upload(self._open, inputs, self._results, **one)
            file.clear(self._open, inputs, self._results, **one)
        if self._gallery is not None:
            self._gallery.select(self._open_sample, settings, [*files, *self._results], **one)
        chosen = self.sam.change(self._choose, [self._current, self.sam], [self._current, *self.thresholds], **one)
        chosen.success(self._open, inputs, self._results, **one)
        for control in (*self.thresholds, self.colour):
            # While a slider moves, only its last position matters.
            control.change(self._change, settings, self._results, trigger_mode="always_last", **one)
        for overlay, click in zip(self._overlays, (self._click_infrared, self._click_visible), strict=True):
            overlay.select(click, [*settings[:2], self._emphasis], self._results[:4], **one)
        quick: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        for file, thumbnail, modality in zip(files, self._thumbnails, MODALITIES, strict=True):
            file.change(functools.partial(self._thumbnail, modality), file, thumbnail, **quick)
        self._swap.click(lambda ir, vi: (vi, ir), files, files, **quick).then(self._open, inputs, self._results, **one)
        self._choice.change(
            lambda current, choice: gr.skip() if current is None else _compared(current.pictures, choice),
            [self._current, self._choice],
            self._slider,
            **quick,
        )
        self._defaults.click(self._default_values, self.sam, self.thresholds, **one)

    def _default_values(self, sam: str) -> tuple[float, ...]:
        with _explained():
            return dataclasses.astuple(self._sams[sam]().thresholds)

    def _choose(self, old: _Current | None, sam: str) -> list[Any]:
        """Called after a model was chosen: load it. Returns no pair, until `_open` has one, and the model's sliders."""
        values = self._default_values(sam)
        _forget(old)
        return [None, *values]

    def _open(
        self, old: _Current | None, ir: str | None, vi: str | None, choice: str, colour: bool, sam: str, *values: float
    ) -> list[Any]:
        """Called after a file was dropped or removed: fuse if both are there. Returns the values of `_results`."""
        _forget(old)
        if ir is None and vi is None:
            return _nothing(_START)
        if ir is None or vi is None:
            missing = "an infrared" if ir is None else "a visible"
            return _nothing(f"Now drop {missing} image of the same scene.")
        try:
            with _explained():
                session = self._sams[sam]()
                pair = session.open(Path(ir), Path(vi))
                view = session.fuse(pair, MaskThresholds(*values), gray=not colour)
                folder = self._files / uuid.uuid4().hex
                return self._show(_Current(session, pair, folder, (colour, values), view), choice)
        except gr.Error as error:
            return _nothing(str(error.message), problem=True)

    def _open_sample(self, event: gr.SelectData, old: _Current | None, *settings: Any) -> list[Any]:
        """Called after a sample was picked. Returns both files and the values of `_results`."""
        pair = self._samples[event.index]
        return [str(pair.ir), str(pair.vi), *self._open(old, str(pair.ir), str(pair.vi), *settings)]

    def _change(self, current: _Current | None, choice: str, colour: bool, _: str, *values: float) -> list[Any]:
        """Called after a threshold or the colour changed: fuse the pair again. Returns the values of `_results`."""
        unchanged = [gr.skip() for _ in self._results]
        if current is None or current.settings == (colour, values):
            return unchanged
        try:
            with _explained():
                view = current.session.fuse(current.pair, MaskThresholds(*values), gray=not colour)
                choices = current.choices if _same_segments(current.view, view) else {}
                changed = dataclasses.replace(current, settings=(colour, values), view=view, choices=choices)
                return self._show(_emphasised(changed, choices) if choices else changed, choice)
        except gr.Error as error:
            return [gr.skip(), _line(str(error.message), problem=True), *unchanged[2:]]

    def _thumbnail(self, modality: Modality, path: str | None) -> ImageArray | None:
        """A small picture of a dropped file; None where it cannot be read, which `_open` reports."""
        if path is None:
            return None
        try:
            return shrink(self._session.read(Path(path), modality), _THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        except (ThFuseError, OSError):
            return None

    def _click_infrared(self, event: gr.SelectData, *settings: Any) -> list[Any]:
        return self._emphasise("ir", event.index, *settings)

    def _click_visible(self, event: gr.SelectData, *settings: Any) -> list[Any]:
        return self._emphasise("vi", event.index, *settings)

    def _emphasise(
        self, modality: Modality, at: Sequence[int], current: _Current | None, choice: str, wanted: str
    ) -> list[Any]:
        """Called after a click into a picture of masks: fuse again with what is wanted of the segment there.

        Returns the values of `_results` but for the pictures of masks.
        """
        if current is None:
            return [gr.skip()] * 4
        labels = current.view.ir_labels if modality == "ir" else current.view.vi_labels
        column, row = (int(position * max(1, max(labels.shape) / _PREVIEW_PIXELS)) for position in at)
        label = int(labels[min(row, labels.shape[0] - 1), min(column, labels.shape[1] - 1)])
        if not label:
            return [gr.skip(), _line("There is no segment; click a coloured area."), gr.skip(), gr.skip()]
        emphasis = _EMPHASES[wanted]
        choices = {key: value for key, value in current.choices.items() if key != (modality, label)}
        if emphasis is not None:
            choices[modality, label] = emphasis
        with _explained():
            return self._shown(_emphasised(current, choices), choice)

    def _show(self, current: _Current, choice: str) -> list[Any]:
        """Write the file to download. Returns the values of `_results`."""
        overlays = [
            _overlay(current.pair.infrared, current.view.ir_labels),
            _overlay(current.pair.visible, current.view.vi_labels),
        ]
        return [*self._shown(current, choice), *overlays]

    def _shown(self, current: _Current, choice: str) -> list[Any]:
        """As `_show`, without the pictures of masks."""
        pair, view = current.pair, current.view
        path = current.folder / f"{pair.files.name}_fused.png"
        write_image(path, view.fused)
        images = {"infrared": pair.infrared, "visible": pair.visible, "fused": view.fused}
        images["before"] = images["after"] = edges_over(pair.infrared, luma(pair.visible))
        if pair.placement is not None:
            images["before"], images["after"] = register_pictures(pair.files, pair.placement)
        pictures = {name: shrink(image, _PREVIEW_PIXELS, _PREVIEW_PIXELS) for name, image in images.items()}
        return [
            dataclasses.replace(current, pictures=pictures),
            _view_line(view, pair, len(current.choices)),
            _compared(pictures, choice),
            gr.update(value=str(path), interactive=True),
        ]


class _FolderTab:
    """The tab that fuses all pairs of a folder of this machine.

    Args:
        settings: controls of the other tab: colour, model, thresholds.
    """

    def __init__(self, sams: Sams, settings: Sequence[Any]) -> None:
        self._sams = sams
        self._stopping = threading.Event()
        gr.Markdown(
            "Paths are on the machine that runs this app. Masks are made with model and thresholds of the other tab; "
            "existing files of the same names in the output folder are replaced."
        )
        source = gr.Textbox(
            label="Folder of pairs", placeholder="/data/pairs, with ir/ and vi/ in it", elem_id="source"
        )
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
        start.click(
            self._run,
            [source, target, *settings],
            [status, pictures],
            show_progress_on=[pictures],
            concurrency_id=_QUEUE,
            concurrency_limit=1,
            api_visibility="private",
        )
        stop.click(self._stopping.set, None, None, queue=False, api_visibility="private")

    def _run(
        self,
        source: str,
        target: str,
        colour: bool,
        sam: str,
        *values: float,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Any:
        """Fuse a folder. Returns the text of the status and the pictures of the gallery."""
        self._stopping.clear()
        shown: list[tuple[ImageArray, str]] = []
        done = 0
        try:
            with _explained():
                folder, output = _given(source, "folder of pairs"), _given(target, "output folder")
                pairs = find_pairs(folder)
                require_outputs_apart(pairs.pairs, output)
                make_directory(output)

                def observe(result: FusedPair) -> None:
                    nonlocal done
                    done += 1
                    progress((done, len(pairs.pairs)), unit="pairs")
                    if len(shown) < _FOLDER_PICTURES:
                        image = add_colour(result.fused, result.visible) if colour else result.fused
                        shown.append((shrink(image, 2 * _THUMBNAIL_PIXELS, 2 * _THUMBNAIL_PIXELS), result.pair.name))
                    if self._stopping.is_set():
                        raise _Stopped

                session = self._sams[sam]()
                report = session.fuse_folder(pairs, output, MaskThresholds(*values), observe, gray=not colour)
        except _Stopped:
            return _line(f"Stopped after {done} of {counted(len(pairs.pairs), 'pair')}; they are in {output}."), shown
        except gr.Error as error:
            return _line(str(error.message), problem=True), shown
        done_of_all = f"{len(report.fused)} of {counted(len(pairs.pairs), 'pair')}"
        text = _line(f"{done_of_all} fused to {output} in {report.seconds:.1f} s.")
        unpaired = [f"{path}: no partner, left out" for path in pairs.unpaired]
        return text + _list([*(f"{name}: {why}" for name, why in report.failures.items()), *unpaired]), shown


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
    pictures = [(shrink(read_visible(pair.vi), _THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), pair.name) for pair in samples]
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
    """Show an error that a visitor can act on as a plain message instead of a traceback."""
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


def _compared(pictures: Mapping[str, ImageArray], choice: str) -> tuple[ImageArray, ImageArray]:
    left, right = _COMPARISONS[choice]
    return pictures[left], pictures[right]


def _overlay(image: ImageArray, label_map: Any) -> ImageArray:
    return shrink(draw_overlay(as_rgb(image), label_map), _PREVIEW_PIXELS, _PREVIEW_PIXELS)


def _emphasised(current: _Current, choices: Mapping[tuple[Modality, int], Emphasis]) -> _Current:
    """The pair, fused again with what was chosen for its segments."""
    plan = EmphasisPlan(chosen={current.pair.files.name: choices})
    view = current.session.emphasise(current.pair, current.view, plan, gray=not current.settings[0])
    return dataclasses.replace(current, view=view, choices=choices)


def _same_segments(one: FusedView, other: FusedView) -> bool:
    return np.array_equal(one.ir_labels, other.ir_labels) and np.array_equal(one.vi_labels, other.vi_labels)


def _view_line(view: FusedView, pair: OpenPair, chosen: int) -> str:
    height, width = view.fused.shape[:2]
    counts = [np.count_nonzero(np.bincount(labels.ravel())[1:]) for labels in (view.ir_labels, view.vi_labels)]
    return _line(
        f"{width}×{height} pixels. Segments: {counts[0]} infrared, {counts[1]} visible, "
        f"made in {view.mask_seconds:.2f} s. Fused in {view.fuse_seconds:.2f} s."
        + (f" Emphasis chosen for {chosen}." if chosen else "")
        + ("" if pair.placement is None else f" Alignment: {pair.placement.alignment}.")
    )


def _line(text: str, *, problem: bool = False) -> str:
    """A paragraph of text that may hold names of files: escaped."""
    attributes = ' class="problem" role="alert"' if problem else ' role="status"'
    return f"<p{attributes}>{html.escape(text)}</p>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>" if lines else ""
