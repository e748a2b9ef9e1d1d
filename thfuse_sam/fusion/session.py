"""Fusing one pair interactively: read and embedded once, then segmented and fused again as the thresholds move."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thfuse_sam.align.placement import Placement, Placer
from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.datasets.fusion import fusion_sample
from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.devices import upload
from thfuse_sam.errors import ImageReadError, ThFuseError
from thfuse_sam.fusion.colour import finished
from thfuse_sam.fusion.emphasis import EmphasisPlan, fuse_emphasised
from thfuse_sam.fusion.fusing import FusedPair, FuseReport, fuse_pairs
from thfuse_sam.fusion.misalignment import noticed_offset
from thfuse_sam.images import Modality, as_rgb, image_size, luma, read_infrared, read_visible
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.format import LabelMap
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.options.app import LimitSettings
from thfuse_sam.sam.decoder import DecodedPrompts, Decoder
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.geometry import LOGITS_PER_TOKEN
from thfuse_sam.thermal import AS_STORED, InfraredReading

_MAX_REMEMBERED_BYTES = 256 * 2**20  # memory for the decoded points of one image
_MASKS_PER_POINT = 3


@dataclasses.dataclass(frozen=True)
class MaskThresholds:
    """The generator's settings that need no new embedding; see `GeneratorSettings`."""

    pred_iou_thresh: float
    stability_score_thresh: float
    box_nms_thresh: float


@dataclasses.dataclass(frozen=True, eq=False)
class OpenPair:
    """A pair that was read, and what SAM's image encoder made of it. The images share height and width."""

    files: ImagePair
    placement: Placement | None  # None: both images are as they were read
    infrared: ImageArray  # HxW
    visible: ImageArray  # HxWx3, RGB
    ir_embedding: ImageEmbedding
    vi_embedding: ImageEmbedding
    ir_decoder: Decoder
    vi_decoder: Decoder


@dataclasses.dataclass(frozen=True, eq=False)
class FusedView:
    """The masks and the fused image of an open pair with certain thresholds. All arrays have its height and width."""

    fused: ImageArray  # HxWx3, RGB; HxW without colour
    ir_labels: LabelMap  # 0 is no segment
    vi_labels: LabelMap
    mask_seconds: float  # for both masks
    fuse_seconds: float


class RememberedPrompts:
    """A decoder for one image that decodes the same prompts only once: its results depend on no threshold.

    With it, new thresholds cost only the filtering and upsampling of masks. It keeps the IoUs and logits of all prompts
    that it has decoded.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._context: Any = None
        self._decoded: dict[tuple[torch.Size, bytes], DecodedPrompts] = {}

    def prepare(self, features: Tensor, input_size: Size) -> Any:
        if self._context is None:
            self._context = self._decoder.prepare(features, input_size)
        return self._context

    def decode(self, context: Any, prompts: Tensor) -> DecodedPrompts:
        key = prompts.shape, prompts.cpu().numpy().tobytes()  # a box has the bytes of two points
        if key not in self._decoded:
            decoded = self._decoder.decode(context, prompts)
            logits = decoded.logits(torch.arange(decoded.predicted_ious.numel()))
            self._decoded[key] = DecodedPrompts(
                decoded.predicted_ious, lambda indices: logits[upload(indices, logits.device)]
            )
        return self._decoded[key]


class FusionSession:
    """Fuses single pairs step by step, and folders at once, with the same network and the same mask generator.

    Not safe for use by several threads at a time.

    Args:
        network: a fusion network; is moved to `device`.
        generator: its settings are the default thresholds. Crops are switched off: an embedding is of the whole image.
        device: where the network computes; the generator stays on its own device.
        limits: how large the files that `open` reads may be.
        reading: how infrared images are read.
    """

    def __init__(
        self,
        network: nn.Module,
        generator: AutomaticMaskGenerator,
        device: torch.device,
        limits: LimitSettings | None = None,
        reading: InfraredReading = AS_STORED,
    ) -> None:
        self.limits, self._reading = limits or LimitSettings(), reading
        self._network = network.to(device).eval()
        self._device = device
        self._masks = generator
        self._settings = dataclasses.replace(generator.settings, crop_n_layers=0)

    @property
    def thresholds(self) -> MaskThresholds:
        """The default thresholds."""
        values = {field.name: getattr(self._settings, field.name) for field in dataclasses.fields(MaskThresholds)}
        return MaskThresholds(**values)

    def read(self, path: Path, modality: Modality) -> ImageArray:
        """Read one image file: uint8 HxW (infrared), or HxWx3. Raises ImageReadError as `open`."""
        self._require_within_limits(path)
        with _naming_file_only(path):
            return read_infrared(path, self._reading) if modality == "ir" else read_visible(path)

    def open(self, ir: Path, vi: Path) -> OpenPair:
        """Read and embed a pair of image files, aligned if they differ in size or are out of register.

        Errors name the files without their folders, which mean nothing to somebody who has uploaded them. Raises
        ImageReadError: a file is no readable image, or has more bytes or pixels than the limits allow; DeviceError:
        memory does not suffice.
        """
        infrared, visible = self.read(ir, "ir"), self.read(vi, "vi")
        placement = None
        # Noticing costs less than an embedding.
        if infrared.shape != visible.shape[:2] or noticed_offset(infrared, luma(visible)) is not None:
            placement = Placer("similarity").place(infrared, visible)
            infrared, visible = placement.images(infrared, visible)
        generator = self._generator(self.thresholds)
        # As `images.read_for_sam` shows it to SAM, so that masks are equal to precomputed ones.
        ir_embedding = generator.encode(as_rgb(infrared))
        vi_embedding = generator.encode(visible)
        ir_decoder, vi_decoder = (self._decoder(generator, embedding) for embedding in (ir_embedding, vi_embedding))
        files = ImagePair(vi.stem, ir, vi, self._reading)
        return OpenPair(files, placement, infrared, visible, ir_embedding, vi_embedding, ir_decoder, vi_decoder)

    def fuse(self, pair: OpenPair, thresholds: MaskThresholds, *, gray: bool = False) -> FusedView:
        """Segment an open pair anew from its embeddings and fuse it. `gray` leaves out the visible image's colour.

        Raises UsageError: a threshold is out of its range; ImageSizeError: the images are too small for the network, or
        do not fit into memory.
        """
        started = time.perf_counter()
        generator = self._generator(thresholds)
        generator.decoder = pair.ir_decoder
        ir_labels = generator.label_map_from(pair.ir_embedding, pair.infrared)
        generator.decoder = pair.vi_decoder
        vi_labels = generator.label_map_from(pair.vi_embedding, pair.infrared)
        return self._fuse_segments(pair, ir_labels, vi_labels, time.perf_counter() - started, gray)

    def emphasise(self, pair: OpenPair, view: FusedView, emphasis: EmphasisPlan, *, gray: bool = False) -> FusedView:
        """Fuse the segments of a `view` again, with another emphasis. Raises ImageSizeError, see `fuse`."""
        return self._fuse_segments(pair, view.ir_labels, view.vi_labels, view.mask_seconds, gray, emphasis)

    def _fuse_segments(
        self,
        pair: OpenPair,
        ir_labels: LabelMap,
        vi_labels: LabelMap,
        mask_seconds: float,
        gray: bool,
        emphasis: EmphasisPlan | None = None,
    ) -> FusedView:
        started = time.perf_counter()
        sample = fusion_sample(pair.files.name, pair.infrared, pair.visible, ir_labels, vi_labels)
        (fused,) = fuse_emphasised(self._network, [sample], self._device, plan=emphasis)
        fused = finished(fused, pair.visible, pair.placement, gray=gray)
        return FusedView(fused, ir_labels, vi_labels, mask_seconds, time.perf_counter() - started)

    def fuse_folder(
        self,
        pairs: PairSet,
        output_dir: Path,
        thresholds: MaskThresholds,
        observe: Callable[[FusedPair], None],
        *,
        gray: bool = False,
    ) -> FuseReport:
        """Fuse all of `pairs` into `output_dir`; see `fuse_pairs`. Pairs that cannot be fused are in its `failures`."""
        masks = LiveMasks(self._generator(thresholds).label_map, self._reading)
        return fuse_pairs(
            self._network,
            pairs.read_as(self._reading).pairs,
            masks,
            output_dir,
            device=self._device,
            gray=gray,
            skip_bad=True,
            observers=[observe],
        )

    def _generator(self, thresholds: MaskThresholds) -> AutomaticMaskGenerator:
        generator = copy.copy(self._masks)  # with the same model: a GPU would convert a new one's encoder again
        generator.settings = dataclasses.replace(self._settings, **dataclasses.asdict(thresholds))
        return generator

    def _decoder(self, generator: AutomaticMaskGenerator, embedding: ImageEmbedding) -> Decoder:
        """The decoder for one image; it remembers points unless that takes too much memory, as with large models."""
        logits = embedding.features[0].size * LOGITS_PER_TOKEN**2  # number of logits of one mask
        prompts = self._settings.points_per_side**2 + self._settings.max_warm_places
        floats = prompts * _MASKS_PER_POINT * logits
        # Adaptive points depend on the thresholds: memory would grow with each change of them.
        if self._settings.adaptive_points or 4 * floats > _MAX_REMEMBERED_BYTES:
            return generator.decoder
        return RememberedPrompts(generator.decoder)

    def _require_within_limits(self, path: Path) -> None:
        size = path.stat().st_size if path.is_file() else 0  # reading reports a missing file
        if size > self.limits.max_bytes:
            raise ImageReadError(
                f"{path.name}: {size / 2**20:.3g} MiB, more than the {self.limits.max_bytes / 2**20:.3g} MiB allowed "
                "here; use a smaller file"
            )
        with _naming_file_only(path):
            height, width = image_size(path)
        if height * width > self.limits.max_pixels:
            raise ImageReadError(
                f"{path.name}: {width}x{height} pixels, more than the {self.limits.max_pixels / 1e6:g} megapixels "
                "allowed here; scale the image down"
            )


@contextlib.contextmanager
def _naming_file_only(path: Path) -> Iterator[None]:
    """Take the folder of `path` out of the text of an error."""
    try:
        yield
    except ThFuseError as error:
        raise type(error)(str(error).replace(str(path), path.name)) from error
