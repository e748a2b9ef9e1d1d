"""Serving the page on which pairs are fused in a browser, according to `AppOptions`; `app_page.py` builds it."""

import contextlib
import dataclasses
import functools
import importlib.resources
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thfuse_sam.commands.fuse import open_network
from thfuse_sam.commands.infrared import infrared_reading, trained_range
from thfuse_sam.commands.inputs import build_generator
from thfuse_sam.datasets.pairs import ImagePair, find_pairs
from thfuse_sam.devices import resolve_device
from thfuse_sam.errors import PairError, UsageError, naming
from thfuse_sam.fusion.session import FusionSession
from thfuse_sam.options.app import AppOptions
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import HUGGING_FACE, MODEL_TYPE_NAMES
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.shipped import find_shipped
from thfuse_sam.thermal import InfraredReading

_CACHE_SECONDS = 3600  # age at which the page's pictures are removed

log = logging.getLogger(__name__)


def serve(options: AppOptions) -> None:
    """Serve the page until an interrupt. Raises ThFuseError."""
    _require_gradio()
    import uvicorn

    device = resolve_device(options.device)
    with _listening(options.host, options.port) as listener, _own_files() as files:
        path, network, training = open_network(options)
        reading = infrared_reading(options, [], trained_range(path, training))
        sams = {
            name: functools.cache(functools.partial(_session, network, sam, device, reading))
            for name, sam in find_sams(options).items()
        }
        app = build_app(
            sams,
            find_samples(options.sample_path),
            files,
            host=options.host,
            folders=options.allow_folders or is_loopback(options.host),
            facts=f"Network {network.name}, on {device}",
        )
        address = listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        log.info("open http://%s:%d in a browser; Ctrl-C stops", host, address[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def find_sams(options: AppOptions) -> dict[str, AppOptions]:
    """The models by their names on the page, each as the options that load it; the first is the page's own.

    Raises ThFuseError where one of `more_sams` cannot be had.
    """
    checkpoint = options.sam_checkpoint
    if checkpoint is None:
        sams = {options.sam_model_type: options}
    else:  # its type is known from itself
        is_default = options.sam_model_type == AppOptions.sam_model_type
        sams = {checkpoint.name: dataclasses.replace(options, sam_model_type=AUTO) if is_default else options}
    for text in options.more_sams:
        kind, path = text, None
        if text not in MODEL_TYPE_NAMES:
            path = Path(text)
            kind = AUTO if path.exists() else HUGGING_FACE
        with naming("more_sams", path):
            resolve_sam(kind, path)
        # Visitors need not know the folders of this machine.
        name = path.name if path is not None and path.exists() and path.name not in sams else text
        sams[name] = dataclasses.replace(options, sam_model_type=kind, sam_checkpoint=path)
    return sams


def _session(network: nn.Module, sam: AppOptions, device: torch.device, reading: InfraredReading) -> FusionSession:
    return FusionSession(network, build_generator(sam, device), device, sam, reading)


def build_app(
    sams: Mapping[str, Callable[[], FusionSession]],
    samples: Sequence[ImagePair],
    files: Path,
    *,
    host: str = "127.0.0.1",
    folders: bool = True,
    facts: str = "",
) -> Any:
    """The ASGI application: the page, and the checks of what reaches it.

    Args:
        sams: name of a Segment Anything model on the page -> the session that fuses with it, loaded when it is first
            called; the page begins with the first, whose limits apply to uploads.
        samples: pairs to pick from.
        files: folder for uploads and results, private to this app; `GRADIO_TEMP_DIR` must name it.
        host: address of the server. If it is a loopback address, only requests that name a local host are answered;
            this keeps out web pages whose own host name resolves to this machine (DNS rebinding).
        folders: whether the page can read and write folders of this machine.
        facts: one line about network and device, for the head of the page.
    """
    import fastapi
    import gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from thfuse_sam.commands import app_page

    page = app_page.build_page(sams, samples, files, folders=folders, facts=facts, cache_seconds=_CACHE_SECONDS)
    app = fastapi.FastAPI(openapi_url=None)
    if is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        allowed_paths=sorted({str(path.parent.resolve()) for pair in samples for path in pair.images.values()}),
        show_error=False,
        max_file_size=next(iter(sams.values()))().limits.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        theme=app_page.theme(),
        css=(importlib.resources.files("thfuse_sam.commands") / "app.css").read_text(encoding="utf-8"),
    )


def find_samples(folder: Path) -> list[ImagePair]:
    """The sample pairs of a folder; if it holds none, an empty list and a warning."""
    try:
        return find_pairs(find_shipped(folder)).pairs
    except PairError as error:
        log.warning("no samples: %s", error)
        return []


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_gradio() -> None:
    # Set before the import, which reads them.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the app needs Gradio ({error}); pip install 'th-fuse-sam[app]'") from error


@contextlib.contextmanager
def _own_files() -> Iterator[Path]:
    """A folder for uploads and results that is removed when the app ends."""
    with tempfile.TemporaryDirectory(prefix="thfuse-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, bound before the models are loaded so that a taken port is reported at once.

    Raises UsageError.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"`host` {host} `port` {port}: cannot listen there ({reason}); give another `port`, or 0 for any free one"
        ) from error
    with listener:
        yield listener
