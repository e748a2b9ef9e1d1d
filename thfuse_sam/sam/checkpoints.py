"""Which Segment Anything checkpoint to use: the one given, a cached one, a download, or the one that ships."""

import hashlib
import logging
import os
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from thfuse_sam.errors import CheckpointError
from thfuse_sam.sam.registry import MODEL_TYPES, ModelType, find_model_type
from thfuse_sam.sam.weights import read_weights, recognise_model_type

logger = logging.getLogger(__name__)

AUTO = "auto"
CACHE_VARIABLE = "SAM_CACHE"  # environment variable: folder of downloaded checkpoints
OFFLINE_VARIABLE = "THFUSE_OFFLINE"  # environment variable: 1 for never downloading

_SHIPPED_FOLDER = Path(__file__).resolve().parents[2] / "models"
_PREFERRED = "vit_t"  # what "auto" downloads
_FALLBACK = "vit_nano"  # what "auto" uses offline
_PROBE_SECONDS = 4.0  # to learn whether a server answers
_READ_SECONDS = 30.0  # of silence before a download that has begun is given up
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class ResolvedSam:
    """A checkpoint file that exists and the model type it belongs to."""

    model_type: str
    checkpoint: Path
    sha256: str  # of the file's content, in hexadecimal


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises CheckpointError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check --sam_checkpoint") from error
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloaded checkpoints are kept: the folder in SAM_CACHE, else the user's cache."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path(pooch.os_cache("thfuse-sam"))


def shipped_checkpoint() -> Path:
    """The small checkpoint in the checkout's `models` folder; it may be absent from an installed package."""
    return _SHIPPED_FOLDER / MODEL_TYPES[_FALLBACK].file_name


def resolve_sam(model_type: str = AUTO, checkpoint: Path | None = None) -> ResolvedSam:
    """The checkpoint to use, downloaded where need be.

    Args:
        model_type: a name in MODEL_TYPES, or "auto": the type of the given checkpoint; without one `vit_t` from the
            cache or the download, and where that cannot be had the `vit_nano` that ships, with a warning.
        checkpoint: a file; None for the published weights of the type.

    Raises:
        UsageError: unknown model type.
        CheckpointError: the file is missing, damaged or of another type, or cannot be downloaded.
    """
    if model_type != AUTO:
        find_model_type(model_type)
    if checkpoint is not None:
        return _resolve_given(model_type, checkpoint)
    if model_type == AUTO:
        return _resolve_auto()
    return _resolve_published(find_model_type(model_type))


def _resolve_given(model_type: str, checkpoint: Path) -> ResolvedSam:
    # Opened for an explicit type too, so that a wrong file is reported before any work starts.
    found = recognise_model_type(read_weights(checkpoint))
    if model_type == AUTO:
        if found is None:
            raise CheckpointError(
                f"{checkpoint}: is no Segment Anything checkpoint of a known type; use one of {', '.join(MODEL_TYPES)}"
            )
        model_type = found
    elif found != model_type:
        like = f"looks like {found}" if found else "is no Segment Anything checkpoint of a known type"
        remedy = f"use --sam_model_type {found} or" if found else "use"
        raise CheckpointError(f"{checkpoint}: {like}, not like {model_type}; {remedy} a checkpoint of {model_type}")
    return ResolvedSam(model_type, checkpoint, sha256_of(checkpoint))


def _resolve_auto() -> ResolvedSam:
    kind = MODEL_TYPES[_PREFERRED]
    try:
        return _resolve_published(kind)
    except CheckpointError as error:
        if not shipped_checkpoint().is_file():
            raise
        logger.warning(
            "using the small SAM that ships (%s), whose masks are rough: %s. For better masks give --sam_checkpoint",
            _FALLBACK,
            str(error).rstrip("."),
        )
    return _resolve_published(MODEL_TYPES[_FALLBACK])


def _resolve_published(kind: ModelType) -> ResolvedSam:
    if kind.url is None:
        shipped = _SHIPPED_FOLDER / kind.file_name
        if not shipped.is_file():
            raise CheckpointError(f"{shipped}: the shipped {kind.name} is missing; give its file by --sam_checkpoint")
        return ResolvedSam(kind.name, shipped, sha256_of(shipped))
    cached = cache_folder() / kind.file_name
    if cached.is_file():
        found = sha256_of(cached)
        if found == kind.sha256:
            return ResolvedSam(kind.name, cached, found)
        logger.warning("%s: is damaged (SHA-256 %s..., expected %s...)", cached, found[:8], str(kind.sha256)[:8])
    _download(kind, cached)
    return ResolvedSam(kind.name, cached, sha256_of(cached))


def _download(kind: ModelType, target: Path) -> None:
    """Fetch the published weights to `target`: checked, complete or not there at all. Raises CheckpointError."""
    assert kind.url is not None
    remedy = f"download {kind.url} yourself to {target}, or give a file by --sam_checkpoint"
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        raise CheckpointError(
            f"{kind.name}: no checkpoint in the cache and {OFFLINE_VARIABLE} forbids the download; {remedy}"
        )
    if not _answers(kind.url):
        raise CheckpointError(f"{kind.name}: no checkpoint in the cache and the server does not answer; {remedy}")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(_PROBE_SECONDS, _READ_SECONDS), chunk_size=_BLOCK)
    try:
        pooch.retrieve(kind.url, known_hash=kind.sha256, fname=target.name, path=target.parent, downloader=downloader)
    except (requests.RequestException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{kind.name}: the download failed ({reason}); {remedy}") from error


def _answers(url: str) -> bool:
    """Whether the server answers within a few seconds, name resolution included.

    Resolving a name has no time limit of its own, hence a thread that is left behind when it takes too long.
    """
    answers: queue.Queue[bool] = queue.Queue()

    def ask() -> None:
        try:
            requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=False).close()
        except (requests.RequestException, OSError):
            answers.put(False)
        else:
            answers.put(True)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=_PROBE_SECONDS)
    except queue.Empty:
        return False
