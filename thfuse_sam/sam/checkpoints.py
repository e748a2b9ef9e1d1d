"""Which Segment Anything checkpoint to use: the one given, a cached one, a download, or the one that ships."""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.downloads import cache_folder, download
from thfuse_sam.errors import CheckpointError, DownloadError, UsageError, first_of
from thfuse_sam.files import file_sha256
from thfuse_sam.options.fields import AUTO
from thfuse_sam.options.generator import HUGGING_FACE
from thfuse_sam.sam.adapt import Adaptation
from thfuse_sam.sam.export import TrainedHeader, read_trained_header
from thfuse_sam.sam.hugging_face import (
    WEIGHTS,
    find_folder,
    read_family,
    weight_files,
    weights_sha256,
)
from thfuse_sam.sam.registry import (
    MODEL_TYPES,
    ModelType,
    find_model_type,
    fitting_model,
    refuse_other_models,
)
from thfuse_sam.sam.weights import read_weights, recognise_model_type, trained_metadata
from thfuse_sam.shipped import shipped_root

log = logging.getLogger(__name__)

_SHIPPED_FOLDER = shipped_root() / "models"
_PREFERRED = "vit_t"  # what "auto" downloads
_FALLBACK = "vit_nano"  # what "auto" uses where the download fails: it ships


@dataclass(frozen=True)
class ResolvedSam:
    """A checkpoint and the model type it belongs to; `loading.load_sam` makes the model of it."""

    model_type: str
    checkpoint: Path  # a file; with HUGGING_FACE a folder
    sha256: str  # SHA-256 of the weights' file, in hexadecimal; of several files see `weights_sha256`
    base: Path | None = None  # a whole checkpoint with the weights that `checkpoint` lacks; None: it lacks none

    @property
    def size(self) -> int:
        """Bytes of the weights; 0 if they are not there yet."""
        files = weight_files(self.checkpoint) if self.model_type == HUGGING_FACE else [self.checkpoint]
        return sum(path.stat().st_size for path in files if path.is_file())

    def trained_header(self, adaptation: Adaptation) -> TrainedHeader:
        """The description of weights that were tuned from this checkpoint."""
        return TrainedHeader(self.model_type, self.sha256, self.checkpoint.name, adaptation)


def checkpoint_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint file, in hexadecimal. Raises CheckpointError if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check `sam_checkpoint`") from error


def shipped_checkpoint() -> Path:
    """The small checkpoint in `models/`, which may be absent."""
    return _SHIPPED_FOLDER / MODEL_TYPES[_FALLBACK].file_name


def type_with_weights(sha256: str) -> str | None:
    """The name of the model type whose published or shipped weights have that SHA-256; None if there is none."""
    for kind in MODEL_TYPES.values():
        if sha256 == kind.sha256:
            return kind.name
    shipped = shipped_checkpoint()
    return _FALLBACK if shipped.is_file() and sha256 == checkpoint_sha256(shipped) else None


def resolve_sam(model_type: str = AUTO, checkpoint: Path | None = None, *, fetch: bool = True) -> ResolvedSam:
    """The checkpoint to use, downloaded where need be.

    Args:
        model_type: a name in MODEL_TYPES, HUGGING_FACE, or "auto": the type of the given checkpoint. Without a
            checkpoint, "auto" is `vit_t` from the cache or a download; if the download fails, the `vit_nano` that
            ships, with a warning. A Hugging Face model that is one of MODEL_TYPES resolves to that.
        checkpoint: a file; None for the published weights of the type. With HUGGING_FACE a folder, or owner/name.
        fetch: False downloads nothing. The file may then not exist yet, which is logged.

    Raises:
        UsageError: unknown model type.
        CheckpointError: the file is missing, damaged or of another type, or cannot be downloaded.
    """
    if model_type == HUGGING_FACE or (model_type == AUTO and checkpoint is not None and checkpoint.is_dir()):
        return _resolve_hugging_face(checkpoint, fetch)
    kind = None if model_type == AUTO else find_model_type(model_type)
    if checkpoint is not None:
        return _resolve_given(kind, checkpoint)
    return _resolve_auto(fetch) if kind is None else _resolve_published(kind, fetch)


def resolve_tuned(model_type: str, checkpoint: Path | None, *, base: Path | None = None) -> ResolvedSam:
    """As `resolve_sam`, where `checkpoint` may also hold some weights alone, which `base` completes.

    Those are trained weights of finetune.py or a part of a SAM, such as a decoder alone.

    Args:
        base: a whole checkpoint; None: what trained weights were tuned from is looked for beside them, in the cache
            and among what ships.

    Raises CheckpointError, also if `base` is not what trained weights were tuned from, or is not found.
    """
    header = None if checkpoint is None else read_trained_header(checkpoint)
    if checkpoint is None or (header is None and base is None):
        return resolve_sam(model_type, checkpoint)
    if header is not None:
        if model_type not in (AUTO, header.model_type):
            raise CheckpointError(f"{checkpoint}: holds {header.model_type}, not {model_type}; leave out `model_type`")
        model_type, base = header.model_type, _find_base(checkpoint, header, base)
    else:
        whole = resolve_sam(model_type, base)
        model_type, base = whole.model_type, whole.checkpoint
        weights = read_weights(base) | read_weights(checkpoint)
        fitting_model(find_model_type(model_type), weights, checkpoint)
    return ResolvedSam(model_type, checkpoint, checkpoint_sha256(checkpoint), base)


def _resolve_hugging_face(checkpoint: Path | None, fetch: bool) -> ResolvedSam:
    if checkpoint is None:
        raise UsageError(
            "`sam_model_type` hf: give `sam_checkpoint`, a model's folder or its owner/name on huggingface.co, such as "
            "facebook/sam2.1-hiera-tiny"
        )
    folder = find_folder(checkpoint, fetch=fetch)
    family = read_family(folder)
    if family == "sam" and (folder / WEIGHTS).is_file():
        weights = read_weights(folder / WEIGHTS)
        recognised = recognise_model_type(weights)
        if recognised is not None:
            with contextlib.suppress(CheckpointError):  # of another size, such as a pruned one
                fitting_model(MODEL_TYPES[recognised], weights, folder)
                return ResolvedSam(recognised, folder / WEIGHTS, checkpoint_sha256(folder / WEIGHTS))
    return ResolvedSam(HUGGING_FACE, folder, weights_sha256(folder))


def _resolve_given(kind: ModelType | None, checkpoint: Path) -> ResolvedSam:
    # Opened for an explicit type too, so that a wrong file is reported before any work starts.
    weights = read_weights(checkpoint)
    if trained_metadata(checkpoint) is not None:
        raise CheckpointError(
            f"{checkpoint}: holds trained weights alone, not a whole model; "
            f"write one by `finetune()` `checkpoint` {checkpoint} `export` FILE.pth and give that"
        )
    refuse_other_models(weights, checkpoint)
    recognised = recognise_model_type(weights)
    if recognised is None and kind is None:
        raise CheckpointError(
            f"{checkpoint}: is no Segment Anything checkpoint of a known type (its weights are "
            f"{first_of(list(weights), 3)}); use one of {', '.join(MODEL_TYPES)}"
        )
    kind = kind or MODEL_TYPES[str(recognised)]
    fitting_model(kind, weights, checkpoint)
    return ResolvedSam(kind.name, checkpoint, checkpoint_sha256(checkpoint))


def _resolve_auto(fetch: bool) -> ResolvedSam:
    try:
        resolved = _resolve_published(MODEL_TYPES[_PREFERRED], fetch)
    except CheckpointError as error:
        if not shipped_checkpoint().is_file():
            raise
        log.warning(
            "%s is not in the cache and cannot be downloaded: using the small SAM that ships (%s), whose masks are "
            "rough; better ones need a checkpoint of a larger SAM",
            _PREFERRED,
            _FALLBACK,
        )
        log.debug("%s", error)
        return _resolve_published(MODEL_TYPES[_FALLBACK], fetch)
    if not resolved.checkpoint.is_file():
        log.info("if the download fails, the run would use the small SAM that ships (%s)", _FALLBACK)
    return resolved


def _resolve_published(kind: ModelType, fetch: bool) -> ResolvedSam:
    if kind.url is None:
        shipped = _SHIPPED_FOLDER / kind.file_name
        if not shipped.is_file():
            raise CheckpointError(f"{shipped}: the shipped {kind.name} is missing; give its file by `sam_checkpoint`")
        return ResolvedSam(kind.name, shipped, checkpoint_sha256(shipped))
    cached = cache_folder() / kind.file_name
    if cached.is_file():
        sha256 = checkpoint_sha256(cached)
        if sha256 == kind.sha256:
            return ResolvedSam(kind.name, cached, sha256)
        log.warning("%s: is damaged (SHA-256 %s..., expected %s...)", cached, sha256[:8], str(kind.sha256)[:8])
    if not fetch and kind.sha256 is not None:
        log.info("%s is not there yet; a run would first download it from %s", cached, kind.url)
        return ResolvedSam(kind.name, cached, kind.sha256)
    try:
        download(kind.url, cached, kind.sha256)
    except DownloadError as error:
        raise CheckpointError(
            f"{kind.name}: no checkpoint in the cache and {error}; "
            f"download {kind.url} yourself to {cached}, or give a file by `sam_checkpoint`"
        ) from error
    return ResolvedSam(kind.name, cached, checkpoint_sha256(cached))


def _find_base(path: Path, header: TrainedHeader, base: Path | None) -> Path:
    """The checkpoint that the weights in `path` were tuned from: `base` or, if that is None, one that is found."""
    if base is not None:
        sha256 = checkpoint_sha256(base)
        if sha256 != header.base_sha256:
            raise CheckpointError(
                f"{path}: was tuned from {header.base_name} (SHA-256 {header.base_sha256[:12]}...), "
                f"but `base_checkpoint` {base} has {sha256[:12]}...; give the file that was tuned"
            )
        return base
    kind = MODEL_TYPES.get(header.model_type)
    if kind is not None and kind.sha256 == header.base_sha256:
        return resolve_sam(header.model_type).checkpoint
    for candidate in (path.parent / header.base_name, cache_folder() / header.base_name, shipped_checkpoint()):
        if candidate.is_file() and checkpoint_sha256(candidate) == header.base_sha256:
            return candidate
    raise CheckpointError(
        f"{path}: was tuned from {header.base_name} (SHA-256 {header.base_sha256[:12]}...), which is neither beside it "
        "nor in the cache; give it by `base_checkpoint`, or use the exported file"
    )
