"""The page of `thfuse-app`, in Gradio: its look and its tabs. The session does the fusing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from thfuse_sam.commands.app_folder import FolderTab
from thfuse_sam.commands.app_pair import PairTab
from thfuse_sam.commands.app_widgets import Sams
from thfuse_sam.datasets.pairs import ImagePair

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
            PairTab(sams, samples, files)
            return page
        with gr.Tab("One pair"):
            pair = PairTab(sams, samples, files)
        with gr.Tab("A folder"):
            FolderTab(sams, [pair.colour, pair.sam, *pair.thresholds])
    return page
