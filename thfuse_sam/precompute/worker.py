"""From images to masks in one process. Images are read ahead of the generator; label maps are painted by the writer."""

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from thfuse_sam.arrays import ImageArray, Mask, Size, size_of
from thfuse_sam.devices import is_gpu_failure, is_out_of_memory
from thfuse_sam.errors import MaskReadError, ThFuseError, WorkerError
from thfuse_sam.images import as_rgb, image_size, read_infrared, read_infrared_and_missing, read_visible
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.format import LabelMap, paint_label_map
from thfuse_sam.masks.image_records import ImageRecord, record_image
from thfuse_sam.masks.instances import Instance, encode_instances, without
from thfuse_sam.precompute.jobs import Job, JobSettings
from thfuse_sam.sam.generator import AutomaticMaskGenerator, BegunImage, SegmentedImage

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_NO_MEMORY = "out of memory; use a smaller SAM, smaller images or `device` cpu"


@dataclass(frozen=True)
class MaskResult:
    """What was made of one image, ready to be written."""

    job: Job
    label_map: LabelMap | None  # None: failed
    segments: int = 0
    instances: str | None = None  # content of the instance file; None: none is written
    embedding: bytes | None = None  # content of the embedding's file; None: none is written
    record: ImageRecord | None = None  # of the image, as it was before it was read; None: failed
    reason: str = ""  # why it failed, in one line

    def finish(self) -> "MaskResult":
        """This result: nothing is left to do."""
        return self


@dataclass(frozen=True)
class PendingMask:
    """The segments of one image; `finish` paints and encodes them, from any thread."""

    job: Job
    shape: Size  # height, width
    find_segments: Callable[[], Sequence[Instance]]
    save_instances: bool
    embedding: ImageEmbedding | None  # None: it is not kept
    record: ImageRecord
    missing: Mask | None = None  # pixels without data, bool HxW, which no mask covers

    def finish(self) -> MaskResult:
        """The label map and whatever else is to be written; an error becomes the reason of a failure."""
        try:
            segments = without(self.find_segments(), self.missing)
            return MaskResult(
                self.job,
                paint_label_map((segment.mask for segment in segments), self.shape),
                len(segments),
                encode_instances(segments, self.shape) if self.save_instances else None,
                self.embedding.to_bytes() if self.embedding is not None else None,
                self.record,
            )
        except Exception as error:
            return _failed(self.job, error)


Result = MaskResult | PendingMask


@dataclass(frozen=True, eq=False)
class _Read:
    """What is read of one image."""

    record: ImageRecord
    image: ImageArray | ImageEmbedding
    missing: Mask | None  # pixels without data, bool HxW; None: there are none
    infrared: ImageArray | None  # HxW, of the same scene; None: not needed


def make_masks(
    jobs: Sequence[Job],
    generator: AutomaticMaskGenerator,
    options: JobSettings,
    num_workers: int,
    *,
    ahead: bool = False,
) -> Iterator[Result]:
    """Make the masks of `jobs` in their order. The generator runs in the calling thread when a result is asked for.

    An image that cannot be read or segmented gives a `MaskResult` with the reason and does not stop the run. While one
    image is segmented, `num_workers` threads read the next ones, one image each; with 0 the calling thread reads.
    `ahead`: for a GPU: the next image's encoder is started before this image's masks are asked for, so that the GPU
    always has work. Without effect where embeddings are kept or used.

    Raises WorkerError: the GPU has failed.
    """
    reads = _read_ahead(jobs, options, num_workers)
    if ahead and options.embeddings is None and not options.save_embeddings:
        yield from _overlapped(reads, generator, options)
        return
    for job, read in reads:
        yield _attempt(job, functools.partial(_segment, job, read, generator, options))


def _overlapped(
    reads: Iterable[tuple[Job, Callable[[], _Read]]], generator: AutomaticMaskGenerator, options: JobSettings
) -> Iterator[Result]:
    """The results in order. While the CPU decides about an image's masks, the GPU is at work on the next image."""

    def begin(read_image: Callable[[], _Read]) -> tuple[_Read, BegunImage]:
        read = read_image()
        assert isinstance(read.image, np.ndarray)
        return read, generator.begin(read.image, read.infrared)

    def settle(job: Job, read: _Read, segmented: SegmentedImage) -> Result:
        segmented.settle()
        return PendingMask(
            job, segmented.size, segmented.instances, options.save_instances, None, read.record, read.missing
        )

    before: tuple[Job, Callable[[], Result]] | None = None  # the image on which the GPU is at work
    for job, read_image in reads:
        begun = _attempt(job, functools.partial(begin, read_image))
        if before is not None:
            yield _attempt(*before)
            before = None
        if isinstance(begun, MaskResult):
            yield begun
            continue
        read, image = begun
        segmented = _attempt(job, functools.partial(generator.segment, image))
        if isinstance(segmented, MaskResult):
            yield segmented
        else:
            before = job, functools.partial(settle, job, read, segmented)
    if before is not None:
        yield _attempt(*before)


def _attempt(job: Job, work: Callable[[], _T]) -> _T | MaskResult:
    """What `work` returns; an error becomes the reason of a failure. Raises WorkerError: the GPU has failed."""
    try:
        return work()
    except Exception as error:
        log.debug("%s", job, exc_info=True)
        if is_gpu_failure(error):
            raise WorkerError(f"{job}: the GPU has failed: {str(error).splitlines()[0]}") from error
        return _failed(job, error)


def _read_ahead(
    jobs: Sequence[Job], options: JobSettings, num_workers: int
) -> Iterator[tuple[Job, Callable[[], _Read]]]:
    """Each job with a function that returns its image or embedding, or raises the error of reading it."""
    if num_workers == 0:
        yield from ((job, functools.partial(_read, job, options)) for job in jobs)
        return
    waiting: deque[tuple[Job, Callable[[], _Read]]] = deque()
    readers = ThreadPoolExecutor(num_workers, thread_name_prefix="read")
    try:
        for job in jobs:
            waiting.append((job, readers.submit(_read, job, options).result))
            if len(waiting) > num_workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)


def _read(job: Job, options: JobSettings) -> _Read:
    """The record of the image of `job`, the image, or its embedding if one is to be used and fits, and its infrared."""
    record = record_image(job.image, infrared=job.other_infrared)
    grey = missing = None
    if job.modality == "ir":
        grey, missing = read_infrared_and_missing(job.image, options.reading)
    elif job.infrared is not None:
        grey = read_infrared(job.infrared, options.reading)
    infrared = None if job.infrared is None else grey
    if options.embeddings is not None and options.embeddings.is_of(job.modality, job.name, record):
        # An embedding that is missing or does not fit is computed again, which gives the same masks.
        with contextlib.suppress(MaskReadError):
            embedding = options.embeddings.read(job.modality, job.name)
            if embedding.image_size == image_size(job.image):
                return _Read(record, embedding, missing, infrared)
    image = as_rgb(grey) if job.modality == "ir" and grey is not None else read_visible(job.image)
    return _Read(record, image, missing, infrared)


def _segment(
    job: Job, read_image: Callable[[], _Read], generator: AutomaticMaskGenerator, options: JobSettings
) -> PendingMask:
    """The segments of one image, from its pixels or its embedding."""
    read = read_image()
    image, missing, infrared = read.image, read.missing, read.infrared
    if options.embeddings is None and not options.save_embeddings:
        assert isinstance(image, np.ndarray)
        shape = size_of(image)
        segments = generator.generate(image, infrared)
        return PendingMask(job, shape, lambda: segments, options.save_instances, None, read.record, missing)
    embedding = image if isinstance(image, ImageEmbedding) else generator.encode(image)
    if options.embeddings is not None:
        # Rounded even if it has just been computed: masks must not depend on whether the embedding was kept before.
        embedding = embedding.rounded()
    segments = generator.generate_from(embedding, infrared)
    kept = embedding if options.save_embeddings else None
    return PendingMask(job, embedding.image_size, lambda: segments, options.save_instances, kept, read.record, missing)


def _failed(job: Job, error: Exception) -> MaskResult:
    """The result of an image that could not be read or segmented."""
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next image may fit
        return MaskResult(job, None, reason=_NO_MEMORY)
    kind = "" if isinstance(error, ThFuseError) else f"{type(error).__name__}: "
    return MaskResult(job, None, reason=" ".join(f"{kind}{error}".split()))
