"""What the tabs of the page of `thfuse-app` have in common."""

import contextlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import torch

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import ThFuseError
from thfuse_sam.fusion.session import FusionSession
from thfuse_sam.report.pictures import shrink

THUMBNAIL_PIXELS = 320
# How a control calls its function: one job at a time, because all share the network; or at once.
QUEUED: dict[str, Any] = {"concurrency_id": "fusing", "concurrency_limit": 1, "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private"}

Sams = Mapping[str, Callable[[], FusionSession]]  # name of a Segment Anything model -> loads it, or has it already


def gallery(pictures: Sequence[tuple[ImageArray, str]] | None = None, **options: Any) -> Any:
    return gr.Gallery(pictures, columns=4, height="auto", interactive=False, format="jpeg", **options)


def shrunk(image: ImageArray, pixels: int) -> ImageArray:
    """The image with no side longer than `pixels`."""
    return shrink(image, pixels, pixels)


def line(text: str, *, problem: bool = False) -> str:
    """A paragraph of text that may hold names of files: escaped."""
    attributes = ' class="problem" role="alert"' if problem else ' role="status"'
    return f"<p{attributes}>{html.escape(text)}</p>"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Show an error that a visitor can act on as a plain message instead of a traceback."""
    try:
        yield
    except ThFuseError as error:
        raise gr.Error(str(error).replace("`", ""), print_exception=False) from error
    except torch.cuda.OutOfMemoryError as error:
        raise gr.Error("out of GPU memory; use smaller images", print_exception=False) from error
    except OSError as error:
        raise gr.Error(f"{error.strerror or error}; upload the images again", print_exception=False) from error
