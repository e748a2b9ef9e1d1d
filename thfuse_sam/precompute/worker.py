"""From images to masks in one process: files are read ahead of the generator, painting is left to the writer."""

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from thfuse_sam.devices import is_out_of_memory
from thfuse_sam.errors import ImageReadError, MaskReadError, ThFuseError
from thfuse_sam.images import image_size, read_for_sam
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.format import LabelMap, label_map
from thfuse_sam.masks.instances import InstanceLike, encode_instances
from thfuse_sam.precompute.jobs import Job, MakeOptions

log = logging.getLogger(__name__)

_NO_MEMORY = "out of memory; use a smaller SAM, smaller images or `device` cpu"


class MaskGenerator(Protocol):
    """What making masks needs of a generator; `thfuse_sam.sam.generator.AutomaticMaskGenerator` has it."""

    def generate(self, image: npt.NDArray[np.uint8]) -> Sequence[InstanceLike]:
        """The segments of `image` (uint8 HxWx3, RGB)."""


class EmbeddingGenerator(MaskGenerator, Protocol):
    """What it needs besides where image embeddings are kept or used."""

    def encode(self, image: npt.NDArray[np.uint8]) -> ImageEmbedding:
        """The embedding of `image` (uint8 HxWx3, RGB)."""

    def generate_from(self, embedding: ImageEmbedding) -> Sequence[InstanceLike]:
        """The segments of the embedded image."""


@dataclass(frozen=True)
class MaskResult:
    """What was made of one image, ready to be written."""

    job: Job
    label_map: LabelMap | None  # None: failed
    segments: int = 0
    instances: str | None = None  # content of the instance file
    embedding: bytes | None = None  # content of the embedding's file
    reason: str = ""  # of the failure, one line

    def finish(self) -> "MaskResult":
        """Itself; there is nothing left to do."""
        return self


@dataclass(frozen=True)
class PendingMask:
    """The segments of one image; `finish` paints and encodes them, from any thread."""

    job: Job
    shape: tuple[int, int]  # height, width
    segments: Sequence[InstanceLike]
    save_instances: bool
    embedding: ImageEmbedding | None  # to be kept

    def finish(self) -> MaskResult:
        try:
            return MaskResult(
                self.job,
                label_map((segment.mask for segment in self.segments), self.shape),
                len(self.segments),
                encode_instances(self.segments, self.shape) if self.save_instances else None,
                self.embedding.to_bytes() if self.embedding is not None else None,
            )
        except Exception as error:
            return _failed(self.job, error)


Result = MaskResult | PendingMask


def make_masks(
    jobs: Sequence[Job], generator: MaskGenerator, options: MakeOptions, num_workers: int
) -> Iterator[Result]:
    """Make the masks of `jobs` in their order. The generator runs in the calling thread when a result is asked for.

    An image that cannot be read or segmented gives a `MaskResult` with the reason. While one is being segmented,
    `num_workers` threads read the next ones, at most as many images as there are threads; 0 reads in line.
    """
    for read in _read_ahead(jobs, options, num_workers):
        yield read if isinstance(read, MaskResult) else _segment(read, generator, options)


@dataclass(frozen=True)
class _Read:
    job: Job
    image: npt.NDArray[np.uint8] | None  # HxWx3, RGB; None where the embedding is there
    embedding: ImageEmbedding | None


def _read_ahead(jobs: Sequence[Job], options: MakeOptions, num_workers: int) -> Iterator[_Read | MaskResult]:
    if num_workers == 0:
        yield from (_read(job, options) for job in jobs)
        return
    waiting: deque[Future[_Read | MaskResult]] = deque()
    todo = iter(jobs)
    readers = ThreadPoolExecutor(num_workers, thread_name_prefix="read")
    try:
        for job in todo:
            waiting.append(readers.submit(_read, job, options))
            if len(waiting) > num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def _read(job: Job, options: MakeOptions) -> _Read | MaskResult:
    try:
        if options.embeddings is not None:
            # A missing or unfit one is made again, which gives the same masks.
            with contextlib.suppress(MaskReadError):
                stored = options.embeddings.read(job.modality, job.name)
                if stored.image_size == image_size(job.image):
                    return _Read(job, None, stored)
        return _Read(job, read_for_sam(job.image, job.modality), None)
    except ImageReadError as error:
        return MaskResult(job, None, reason=str(error))
    except MemoryError as error:
        return _failed(job, error)


def _segment(read: _Read, generator: MaskGenerator, options: MakeOptions) -> Result:
    try:
        return _run_generator(read, generator, options)
    except Exception as error:
        # One image must not cost the run: the reason goes into the manifest and the exit status.
        log.debug("%s", read.job, exc_info=True)
        return _failed(read.job, error)


def _run_generator(read: _Read, generator: MaskGenerator, options: MakeOptions) -> Result:
    kept: ImageEmbedding | None = None
    segments: Sequence[InstanceLike]
    if options.embeddings is not None:
        encoder = cast(EmbeddingGenerator, generator)
        # Rounded also where it has just been made: the masks must not depend on whether it was kept before.
        embedding = read.embedding or encoder.encode(_image_of(read)).rounded()
        segments = encoder.generate_from(embedding)
        shape = embedding.image_size
        kept = embedding if options.save_embeddings else None
    else:
        image = _image_of(read)
        shape = (image.shape[0], image.shape[1])
        if options.save_embeddings:
            encoder = cast(EmbeddingGenerator, generator)
            kept = encoder.encode(image)
            segments = encoder.generate_from(kept)
        else:
            segments = generator.generate(image)
    return PendingMask(read.job, shape, segments, options.save_instances, kept)


def _image_of(read: _Read) -> npt.NDArray[np.uint8]:
    assert read.image is not None
    return read.image


def _failed(job: Job, error: Exception) -> MaskResult:
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next image may fit
        return MaskResult(job, None, reason=_NO_MEMORY)
    kind = "" if isinstance(error, ThFuseError) else f"{type(error).__name__}: "
    return MaskResult(job, None, reason=" ".join(f"{kind}{error}".split()))
