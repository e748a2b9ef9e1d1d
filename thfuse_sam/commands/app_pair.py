"""The tab of `thfuse-app` for one pair."""

import dataclasses
import functools
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from thfuse_sam.arrays import ImageArray
from thfuse_sam.commands.app_widgets import AT_ONCE, QUEUED, THUMBNAIL_PIXELS, Sams, explained, gallery, line, shrunk
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.errors import ThFuseError
from thfuse_sam.fusion.emphasis import EmphasisPlan
from thfuse_sam.fusion.session import FusedView, FusionSession, MaskThresholds, OpenPair
from thfuse_sam.images import IMAGE_SUFFIXES, MODALITIES, Modality, as_rgb, luma, read_visible, write_image
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.options.fuse import Emphasis
from thfuse_sam.report.register import edges_over, register_pictures

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
_THRESHOLDS = {
    "pred_iou_thresh": ("Predicted IoU", "higher: only masks that SAM is sure of"),
    "stability_score_thresh": ("Stability", "higher: only masks with clear borders"),
    "box_nms_thresh": ("NMS", "IoU of boxes; lower: fewer overlapping masks"),
}
_START = "Drop an infrared and a visible image, or pick a sample."
_PREVIEW_PIXELS = 1600  # longer side of a picture on the page; the download has full size


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


class PairTab:
    """Files or a sample, thresholds, the fused image beside its sources, masks, download.

    Its controls `colour`, `sam` and `thresholds`, in the order of `MaskThresholds`, count for the other tab, too.
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
        bounds, suffixes = self._session.limits, list(IMAGE_SUFFIXES)
        with gr.Row():
            self._ir_file, self._vi_file = (
                gr.File(label=label, file_types=suffixes, type="filepath", height=180, min_width=130, elem_id=name)
                for label, name in (("Infrared", "ir_file"), ("Visible", "vi_file"))
            )
        bare: dict[str, Any] = {"show_label": False, "container": False, "interactive": False, "buttons": []}
        with gr.Row():
            self._thumbnails = [
                gr.Image(
                    label=f"{name} image", format="jpeg", height=110, min_width=130, elem_id=f"{name}_thumbnail", **bare
                )
                for name in ("ir", "vi")
            ]
        self._swap = gr.Button("Swap infrared and visible", size="sm", elem_id="swap")
        limits = f"up to {bounds.max_bytes / 2**20:g} MiB and {bounds.max_pixels / 1e6:g} megapixels."
        gr.Markdown(f"PNG, JPEG, BMP, TIFF or WebP, {limits}")
        self._gallery = _samples_gallery(self._samples)
        names = list(self._sams)
        self.sam = gr.Dropdown(names, value=names[0], label="Segment Anything model", elem_id="sam")
        with gr.Accordion("Mask thresholds", open=True):
            usual = dataclasses.asdict(self._session.thresholds)
            self.thresholds: list[Any] = [
                gr.Slider(0, 1, value=usual[name], step=0.01, label=label, info=info, elem_id=name)
                for name, (label, info) in _THRESHOLDS.items()
            ]
            self._defaults = gr.Button("Defaults", size="sm")
        self.colour = gr.Checkbox(True, label="Keep the visible image's colour")

    def _build_results(self) -> None:
        status = gr.HTML(line(_START), elem_id="status")
        self._choice = gr.Radio(list(_COMPARISONS), value="Infrared | Fused", label="Compare (left | right)")
        shown: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
        self._slider = gr.ImageSlider(label="Drag the divider", elem_id="divider", **shown)
        download = gr.DownloadButton(
            "Download the fused image (PNG, full size)", interactive=False, variant="primary", elem_id="download"
        )
        self._emphasis = gr.Radio(
            list(_EMPHASES), value="Brighter", label="What a click on a segment of a mask does", elem_id="emphasis"
        )
        with gr.Row():
            self._overlays = [
                gr.Image(label=f"Masks of the {name} image", min_width=200, elem_id=f"{name}_masks", **shown)
                for name in ("infrared", "visible")
            ]
        self._results = [self._current, status, self._slider, download, *self._overlays]

    def _connect(self) -> None:
        """Connect each control with the function that it calls."""
        settings = [self._current, self._choice, self.colour, self.sam, *self.thresholds]
        files = [self._ir_file, self._vi_file]
        inputs = [self._current, *files, *settings[1:]]
        for file in files:
            file.upload(self._open, inputs, self._results, **QUEUED)
            file.clear(self._open, inputs, self._results, **QUEUED)
        if self._gallery is not None:
            self._gallery.select(self._open_sample, settings, [*files, *self._results], **QUEUED)
        chosen = self.sam.change(self._choose, [self._current, self.sam], [self._current, *self.thresholds], **QUEUED)
        chosen.success(self._open, inputs, self._results, **QUEUED)
        for control in (*self.thresholds, self.colour):
            # While a slider moves, only its last position matters.
            control.change(self._change, settings, self._results, trigger_mode="always_last", **QUEUED)
        for overlay, click in zip(self._overlays, (self._click_infrared, self._click_visible), strict=True):
            overlay.select(click, [*settings[:2], self._emphasis], self._results[:4], **QUEUED)
        for file, thumbnail, modality in zip(files, self._thumbnails, MODALITIES, strict=True):
            file.change(functools.partial(self._thumbnail, modality), file, thumbnail, **AT_ONCE)
        swapped = self._swap.click(lambda ir, vi: (vi, ir), files, files, **AT_ONCE)
        swapped.then(self._open, inputs, self._results, **QUEUED)
        self._choice.change(
            lambda current, choice: gr.skip() if current is None else _compared(current.pictures, choice),
            [self._current, self._choice],
            self._slider,
            **AT_ONCE,
        )
        self._defaults.click(self._default_values, self.sam, self.thresholds, **QUEUED)

    def _default_values(self, sam: str) -> tuple[float, ...]:
        with explained():
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
            with explained():
                session = self._sams[sam]()
                pair = session.open(Path(ir), Path(vi))
                view = session.fuse(pair, MaskThresholds(*values), gray=not colour)
                folder = self._files / uuid.uuid4().hex
                current = _Current(session, pair, folder, (colour, values), view)
                return [*_shown(current, choice), *_mask_pictures(current)]
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
            with explained():
                view = current.session.fuse(current.pair, MaskThresholds(*values), gray=not colour)
                before = current.view
                is_same = np.array_equal([before.ir_labels, before.vi_labels], [view.ir_labels, view.vi_labels])
                choices = current.choices if is_same else {}
                changed = dataclasses.replace(current, settings=(colour, values), view=view, choices=choices)
                changed = _emphasised(changed, choices) if choices else changed
                return [*_shown(changed, choice), *_mask_pictures(changed)]
        except gr.Error as error:
            return [gr.skip(), line(str(error.message), problem=True), *unchanged[2:]]

    def _thumbnail(self, modality: Modality, path: str | None) -> ImageArray | None:
        """A small picture of a dropped file; None where it cannot be read, which `_open` reports."""
        if path is None:
            return None
        try:
            return shrunk(self._session.read(Path(path), modality), THUMBNAIL_PIXELS)
        except (ThFuseError, OSError):
            return None

    def _click_infrared(self, event: gr.SelectData, *settings: Any) -> list[Any]:
        return _clicked("ir", event.index, *settings)

    def _click_visible(self, event: gr.SelectData, *settings: Any) -> list[Any]:
        return _clicked("vi", event.index, *settings)


def _clicked(modality: Modality, at: Sequence[int], current: _Current | None, choice: str, wanted: str) -> list[Any]:
    """Called after a click into a picture of masks: fuse again with what is wanted of the segment there.

    Returns the values of `_results` but for the pictures of masks.
    """
    if current is None:
        return [gr.skip()] * 4
    labels = current.view.ir_labels if modality == "ir" else current.view.vi_labels
    column, row = (int(position * max(1, max(labels.shape) / _PREVIEW_PIXELS)) for position in at)
    label = int(labels[min(row, labels.shape[0] - 1), min(column, labels.shape[1] - 1)])
    if not label:
        return [gr.skip(), line("There is no segment; click a coloured area."), gr.skip(), gr.skip()]
    emphasis = _EMPHASES[wanted]
    choices = {key: value for key, value in current.choices.items() if key != (modality, label)}
    if emphasis is not None:
        choices[modality, label] = emphasis
    with explained():
        return _shown(_emphasised(current, choices), choice)


def _shown(current: _Current, choice: str) -> list[Any]:
    """Write the file to download. Returns the values of `PairTab._results` but for the pictures of masks."""
    pair, view = current.pair, current.view
    path = current.folder / f"{pair.files.name}_fused.png"
    write_image(path, view.fused)
    images = {"infrared": pair.infrared, "visible": pair.visible, "fused": view.fused}
    images["before"] = images["after"] = edges_over(pair.infrared, luma(pair.visible))
    if pair.placement is not None:
        images["before"], images["after"] = register_pictures(pair.files, pair.placement)
    pictures = {name: shrunk(image, _PREVIEW_PIXELS) for name, image in images.items()}
    return [
        dataclasses.replace(current, pictures=pictures),
        _view_line(view, pair, [f"{of} {label} {choice}" for (of, label), choice in current.choices.items()]),
        _compared(pictures, choice),
        gr.update(value=str(path), interactive=True),
    ]


def _mask_pictures(current: _Current) -> list[ImageArray]:
    pair, view = current.pair, current.view
    masks = ((pair.infrared, view.ir_labels), (pair.visible, view.vi_labels))
    return [shrunk(draw_overlay(as_rgb(image), labels), _PREVIEW_PIXELS) for image, labels in masks]


def _samples_gallery(samples: Sequence[ImagePair]) -> Any:
    if not samples:
        return None
    pictures = [(shrunk(read_visible(pair.vi), THUMBNAIL_PIXELS), pair.name) for pair in samples]
    gr.Markdown("Or a sample:")
    return gallery(pictures, label="Samples", show_label=False, allow_preview=False, buttons=[], elem_id="samples")


def _forget(current: _Current | None) -> None:
    """Remove the file to download of a pair that nobody looks at any more."""
    if current is not None:
        shutil.rmtree(current.folder, ignore_errors=True)


def _nothing(message: str, *, problem: bool = False) -> list[Any]:
    return [None, line(message, problem=problem), None, gr.update(value=None, interactive=False), None, None]


def _compared(pictures: Mapping[str, ImageArray], choice: str) -> tuple[ImageArray, ImageArray]:
    left, right = _COMPARISONS[choice]
    return pictures[left], pictures[right]


def _emphasised(current: _Current, choices: Mapping[tuple[Modality, int], Emphasis]) -> _Current:
    """The pair, fused again with what was chosen for its segments."""
    plan = EmphasisPlan(chosen={current.pair.files.name: choices})
    view = current.session.emphasise(current.pair, current.view, plan, gray=not current.settings[0])
    return dataclasses.replace(current, view=view, choices=choices)


def _view_line(view: FusedView, pair: OpenPair, chosen: Sequence[str]) -> str:
    height, width = view.fused.shape[:2]
    counts = [np.count_nonzero(np.bincount(labels.ravel())[1:]) for labels in (view.ir_labels, view.vi_labels)]
    return line(
        f"{width}×{height} pixels. Segments: {counts[0]} infrared, {counts[1]} visible, "
        f"made in {view.mask_seconds:.2f} s. Fused in {view.fuse_seconds:.2f} s."
        + (f" Emphasis: {', '.join(chosen)}." if chosen else "")
        + ("" if pair.placement is None else f" Alignment: {pair.placement.alignment}.")
    )
