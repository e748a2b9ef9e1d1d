"""The tab of `thfuse-app` that fuses all pairs of a folder of this machine."""

import html
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from thfuse_sam.arrays import ImageArray
from thfuse_sam.commands.app_widgets import AT_ONCE, QUEUED, THUMBNAIL_PIXELS, Sams, explained, gallery, line, shrunk
from thfuse_sam.datasets.pairs import find_pairs
from thfuse_sam.errors import counted
from thfuse_sam.files import make_directory
from thfuse_sam.fusion.colour import add_colour
from thfuse_sam.fusion.fusing import FusedPair, require_outputs_apart
from thfuse_sam.fusion.session import MaskThresholds

_PICTURES = 12  # how many of the fused images are shown


class _Stopped(Exception):
    """The visitor has stopped the fusing."""


class FolderTab:
    """Path of a folder, path of the output, start and stop, and what was fused.

    `settings`: controls of the other tab: colour, model, thresholds.
    """

    def __init__(self, sams: Sams, settings: Sequence[Any]) -> None:
        self._sams = sams
        self._stopping = threading.Event()
        gr.Markdown(
            "Paths are on the machine that runs this app. Masks are made with model and thresholds of the other tab; "
            "existing files of the same names in the output folder are replaced."
        )
        example = "/data/pairs, with ir/ and vi/ in it"
        source = gr.Textbox(label="Folder of pairs", placeholder=example, elem_id="source")
        target = gr.Textbox(label="Output folder", placeholder="/data/fused", elem_id="target")
        with gr.Row():
            start = gr.Button("Fuse the folder", variant="primary", elem_id="start")
            stop = gr.Button("Stop")
        status = gr.HTML(elem_id="folder_status")
        pictures = gallery(label=f"Fused images, the first {_PICTURES}", object_fit="contain", elem_id="fused")
        shown = [status, pictures]
        start.click(self._run, [source, target, *settings], shown, show_progress_on=[pictures], **QUEUED)
        stop.click(self._stopping.set, None, None, **AT_ONCE)

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

        def observe(result: FusedPair) -> None:
            nonlocal done
            done += 1
            progress((done, len(pairs.pairs)), unit="pairs")
            if len(shown) < _PICTURES:
                image = add_colour(result.fused, result.visible) if colour else result.fused
                shown.append((shrunk(image, 2 * THUMBNAIL_PIXELS), result.pair.name))
            if self._stopping.is_set():
                raise _Stopped

        try:
            with explained():
                folder, output = _given(source, "folder of pairs"), _given(target, "output folder")
                pairs = find_pairs(folder)
                require_outputs_apart(pairs.pairs, output)
                make_directory(output)
                session = self._sams[sam]()
                report = session.fuse_folder(pairs, output, MaskThresholds(*values), observe, gray=not colour)
        except _Stopped:
            return line(f"Stopped after {done} of {counted(len(pairs.pairs), 'pair')}; they are in {output}."), shown
        except gr.Error as error:
            return line(str(error.message), problem=True), shown
        done_of_all = f"{len(report.fused)} of {counted(len(pairs.pairs), 'pair')}"
        text = line(f"{done_of_all} fused to {output} in {report.seconds:.1f} s.")
        problems = [f"{name}: {why}" for name, why in report.failures.items()]
        problems += [f"{path}: no partner, left out" for path in pairs.unpaired]
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
        return text + (f"<ul>{items}</ul>" if items else ""), shown


def _given(text: str, what: str) -> Path:
    if not text.strip():
        raise gr.Error(f"name the {what}", print_exception=False)
    return Path(text.strip()).expanduser()
