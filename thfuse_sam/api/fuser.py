"""Fusing in Python: `fuse` for one pair, `Fuser` for a network that is kept."""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, get_args, overload

import numpy as np
import torch
from torch import Tensor

from thfuse_sam.align.placement import Placement, Placer
from thfuse_sam.api import hub
from thfuse_sam.api.aligning import pair_placer
from thfuse_sam.api.inputs import (
    ImageInput,
    MaskInput,
    ValueRange,
    as_infrared,
    as_mask,
    as_path,
    as_visible,
    described,
    listening,
    warn_if_odd,
)
from thfuse_sam.arrays import ImageArray, size_of
from thfuse_sam.datasets.fusion import FusionSample, fusion_sample
from thfuse_sam.devices import resolve_device, warn_of_slow
from thfuse_sam.errors import CheckpointError, ImageSizeError, UsageError, naming, shown
from thfuse_sam.fusion.colour import finished
from thfuse_sam.fusion.emphasis import Choices, EmphasisPlan, fuse_emphasised
from thfuse_sam.fusion.loading import load_network
from thfuse_sam.images import LUMA_WEIGHTS, MODALITIES, size_text
from thfuse_sam.masks.format import guidance_inputs, segment_labels
from thfuse_sam.options.align import AlignKind
from thfuse_sam.options.fuse import Emphasis, InferenceSettings
from thfuse_sam.options.shared import Polarity, Precision
from thfuse_sam.progress import Progress, progress_bar
from thfuse_sam.shipped import find_network
from thfuse_sam.thermal import as_range

_NAME = "ir, vi"  # what messages call a pair
EmphasisInput = Emphasis | Choices | None
MaskPair = tuple[MaskInput, MaskInput] | None  # of the infrared and of the visible image
_Sample = tuple[FusionSample, ImageArray, Placement | None]


def fuse(
    ir: ImageInput,
    vi: ImageInput,
    masks: MaskPair = None,
    *,
    gray: bool = False,
    value_range: ValueRange | None = None,
    ir_polarity: Polarity = "white-hot",
    emphasis: EmphasisInput = None,
    align: AlignKind | None = None,
    rig: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] = "thfuse_lite",
    device: str | torch.device = "auto",
) -> ImageArray:
    """Fuse one infrared and one visible image, as `thfuse fuse` does.

    The network is kept for the next call with the same `model`, unless its file has changed, and `device`.

    Args:
        ir: infrared: a path, a PIL image, or an array HxW or HxWx3.
        vi: visible, likewise; colours are RGB.
        masks: of `ir` and of `vi`: what `masks` returns, a mask file, an array HxW, or None.
        gray: return the fused luma alone.
        value_range: the values that become black and white, of arrays of other types than uint8 and of infrared files
            of more than 8 bits.
        ir_polarity: "black-hot" where what is warm is dark in `ir`.
        emphasis: what segments show, "ir", "vi", "brighter" or "neutral" (nothing is lifted); or that of single
            segments, such as {("ir", 3): "brighter"} for label 3 of the infrared mask. None: what is warm stands out.
        align: bring `ir` and its mask onto `vi` before: "size", "shift", "similarity" or "homography", see `align`.
        rig: do so by this rig file. Without both, the images are of equal size and in register.
        model: "thfuse_lite" or "thfuse_tiny", which ship, or a checkpoint of `train`.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Returns:
        uint8 HxWx3, RGB; with `gray` HxW.

    Raises:
        ThFuseError: of any kind; the message names the argument.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> ir, vi = np.zeros((48, 64)), np.full((48, 64, 3), 0.35)
        >>> th.fuse(ir, vi, value_range=(0, 1)).shape
        (48, 64, 3)
    """
    path = _network_file(model)
    state = path.stat()
    return _kept_fuser(path, (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size), str(device))(
        ir,
        vi,
        masks,
        gray=gray,
        value_range=value_range,
        ir_polarity=ir_polarity,
        emphasis=emphasis,
        align=align,
        rig=rig,
    )


@functools.lru_cache(maxsize=1)
def _kept_fuser(model: Path, state: tuple[int, ...], device: str) -> "Fuser":
    """The network of a file in this `state`: another file, or one that was changed, is read anew."""
    return Fuser(model, device=device)


class Fuser:
    """A fusion network that is kept, for many pairs.

    Threads may share it: fusing changes nothing in it.

    Args:
        model: "thfuse_lite" or "thfuse_tiny", which ship, or a file: a checkpoint of `train`, or a `.safetensors` file.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "fp32", "bf16" or "fp16", the number format of the layers.
        tile_size: larger images than four tiles of so many pixels a side are fused in tiles.

    Attributes:
        network: the PyTorch module, in evaluation mode.
        device: the torch device that it is on.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no fusion network.
        UsageError: another argument cannot be.

    Example:
        >>> import torch
        >>> import thfuse_sam as th
        >>> fuser = th.Fuser("thfuse_lite", device="cpu")
        >>> ir = torch.rand(2, 1, 32, 32, requires_grad=True)
        >>> fused = fuser(ir, torch.rand(2, 1, 32, 32))
        >>> fused.sum().backward()
        >>> fused.shape, ir.grad.shape
        (torch.Size([2, 1, 32, 32]), torch.Size([2, 1, 32, 32]))
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "thfuse_lite",
        *,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        tile_size: int = 1024,
    ) -> None:
        self._settings = InferenceSettings(precision=precision, tile_size=tile_size)
        self.device = resolve_device(device)
        warn_of_slow(precision, self.device)
        path = _network_file(model)
        with naming("model", path):
            network, training = load_network(path)
        self._range = as_range(training.get("ir_range"))
        self.network = network.to(self.device)

    def __repr__(self) -> str:
        return f"<Fuser: {self.network.name} on {self.device}>"

    @overload
    def __call__(self, ir: Tensor, vi: Tensor, masks: MaskPair = ...) -> Tensor: ...
    @overload
    def __call__(
        self,
        ir: ImageInput,
        vi: ImageInput,
        masks: MaskPair = ...,
        *,
        gray: bool = ...,
        value_range: ValueRange | None = ...,
        ir_polarity: Polarity = ...,
        emphasis: EmphasisInput = ...,
        align: AlignKind | None = ...,
        rig: str | os.PathLike[str] | None = ...,
    ) -> ImageArray: ...
    def __call__(
        self,
        ir: ImageInput | Tensor,
        vi: ImageInput | Tensor,
        masks: MaskPair = None,
        *,
        gray: bool = False,
        value_range: ValueRange | None = None,
        ir_polarity: Polarity = "white-hot",
        emphasis: EmphasisInput = None,
        align: AlignKind | None = None,
        rig: str | os.PathLike[str] | None = None,
    ) -> ImageArray | Tensor:
        """Fuse one pair of images, see `fuse`; or a batch of tensors, with gradients.

        Args:
            ir: as for `fuse`, or a float tensor Bx1xHxW in [0, 1].
            vi: likewise; a tensor of three channels (RGB) is reduced to its luma.
            masks: as for `fuse`; of tensors label maps BxHxW.

        Returns:
            As `fuse`; of tensors the fused luma, float Bx1xHxW in [0, 1], on the network's device.
        """
        if isinstance(ir, Tensor) and isinstance(vi, Tensor):
            for_images = {"value_range": value_range, "emphasis": emphasis, "align": align, "rig": rig}
            given = [name for name, value in for_images.items() if value is not None]
            given += ["gray"] * gray + ["ir_polarity"] * (ir_polarity != "white-hot")
            if given:
                raise UsageError(f"`{given[0]}` is for images, not for tensors; leave it out")
            return self._fuse_tensors(ir, vi, masks)
        if isinstance(ir, Tensor) or isinstance(vi, Tensor):
            raise UsageError("one of `ir` and `vi` is a tensor and the other is none; give two of a kind")
        _require_masks(emphasis, [masks])
        sample = self._sample(ir, vi, masks, value_range, ir_polarity, pair_placer(align, rig))
        return self._fuse_samples([sample], gray, emphasis)[0]

    def many(
        self,
        pairs: Iterable[Sequence[Any]],
        *,
        batch_size: int = 1,
        gray: bool = False,
        value_range: ValueRange | None = None,
        ir_polarity: Polarity = "white-hot",
        emphasis: EmphasisInput = None,
        align: AlignKind | None = None,
        rig: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[ImageArray]:
        """Fuse many pairs, in their order; at most `batch_size` neighbours of equal size are fused together.

        Args:
            pairs: of each pair (ir, vi) or (ir, vi, masks), as for `fuse`; taken one after another as they are needed.
            gray, value_range, ir_polarity, emphasis, align, rig: as for `fuse`, for all pairs.
            progress: is called with the number of fused pairs and of all; by default a bar is shown.

        Yields:
            as `fuse`.

        Example:
            >>> import numpy as np
            >>> import thfuse_sam as th
            >>> ir, vi = np.zeros((48, 64), np.uint8), np.full((48, 64, 3), 90, np.uint8)
            >>> [fused.shape for fused in th.Fuser(device="cpu").many([(ir, vi), (ir, vi)], batch_size=2)]
            [(48, 64, 3), (48, 64, 3)]
        """
        InferenceSettings(batch_size=batch_size)  # refuses what is no batch size
        group: list[_Sample] = []
        placer = pair_placer(align, rig)
        if not isinstance(pairs, Iterable):
            raise UsageError(f"`pairs` {described(pairs)}: give pairs (ir, vi) or (ir, vi, masks), such as a list")
        total = len(pairs) if isinstance(pairs, Sized) else None
        if isinstance(pairs, (list, tuple)) and pairs:
            _require_masks(emphasis, map(_masks_of, pairs))
        masked = False
        with listening(progress):
            bar = progress_bar(total=total, unit=" pairs")
        with bar:
            for pair in pairs:
                masks = _masks_of(pair)
                masked |= _has_mask(masks)
                sample = self._sample(pair[0], pair[1], masks, value_range, ir_polarity, placer)
                if group and (len(group) == batch_size or sample[1].shape != group[0][1].shape):
                    yield from self._fuse_samples(group, gray, emphasis)
                    bar.update(len(group))
                    group = []
                group.append(sample)
            if group:
                yield from self._fuse_samples(group, gray, emphasis)
                bar.update(len(group))
                if not masked:  # of pairs that come one by one it is known only now
                    _require_masks(emphasis, [])

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> "Fuser":
        """The fuser that `save_pretrained` wrote to a folder, or that lies on the Hugging Face Hub.

        Args:
            folder: a folder, or "owner/name" on the Hub, which needs the extra `hub`.
            revision: branch, tag or commit on the Hub.
            local_files_only: download nothing, as with the environment variable HF_HUB_OFFLINE.
            options: of `Fuser`, without `model`.

        Raises:
            CheckpointError: neither a folder nor a repository with a fusion network.
            DownloadError: the Hub cannot be reached.

        Example:
            >>> import tempfile
            >>> import thfuse_sam as th
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     th.Fuser(device="cpu").save_pretrained(folder)
            ...     th.Fuser.from_pretrained(folder, device="cpu").network.name
            'thfuse_lite'
        """
        return cls(hub.find_weights(folder, revision, local_files_only), **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `model.safetensors` and, where there is none, a card `README.md`. Raises OutputError."""
        hub.save(as_path(folder, "folder"), self.network, self._range)

    def _sample(
        self,
        ir: ImageInput,
        vi: ImageInput,
        masks: MaskPair,
        value_range: ValueRange | None,
        ir_polarity: Polarity,
        placer: Placer | None = None,
    ) -> _Sample:
        """The sample of one pair, its visible image, and how both images were placed."""
        is_file = isinstance(ir, (str, os.PathLike))
        kept = self._range if is_file else None
        infrared = as_infrared(ir, "ir", kept if value_range is None else value_range, ir_polarity)
        visible = as_visible(vi, "vi", value_range)
        warn_if_odd(ir, infrared, visible, value_range)
        if infrared.shape != visible.shape[:2] and placer is None:
            raise ImageSizeError(
                f"`ir` is {size_text(infrared.shape)} and `vi` {size_text(visible.shape)} (width x height); "
                'align them, with `align="similarity"`'
            )
        maps = [
            as_mask(mask, size_of(image), f"masks of {name}")
            for name, image, mask in zip(MODALITIES, (infrared, visible), _both(masks), strict=True)
        ]
        placement = None if placer is None else placer.place(infrared, visible)
        if placement is not None:
            infrared, visible = placement.images(infrared, visible)
            maps = [
                None if mask is None else placement.mask(name, mask)
                for name, mask in zip(MODALITIES, maps, strict=True)
            ]
        return fusion_sample(_NAME, infrared, visible, *maps), visible, placement

    def _fuse_samples(self, group: Sequence[_Sample], gray: bool, emphasis: EmphasisInput) -> list[ImageArray]:
        plan = _emphasis_plan(emphasis, [one[0] for one in group])
        lumas = fuse_emphasised(self.network, [one[0] for one in group], self.device, self._settings, plan)
        return [
            finished(grey, visible, placement, gray=gray)
            for grey, (_, visible, placement) in zip(lumas, group, strict=True)
        ]

    def _fuse_tensors(self, ir: Tensor, vi: Tensor, masks: MaskPair) -> Tensor:
        if ir.ndim != 4 or ir.shape[1] != 1 or vi.ndim != 4 or vi.shape[1] not in (1, 3) or not ir.numel():
            raise UsageError(
                f"`ir` {tuple(ir.shape)} and `vi` {tuple(vi.shape)}: give tensors Bx1xHxW, `vi` also Bx3xHxW"
            )
        if ir.shape[::2] + ir.shape[3:] != vi.shape[::2] + vi.shape[3:]:
            raise ImageSizeError(f"`ir` {tuple(ir.shape)} and `vi` {tuple(vi.shape)} differ in size; align them")
        ir, vi = (_in_range(image, name).to(self.device) for image, name in ((ir, "ir"), (vi, "vi")))
        if vi.shape[1] == 3:
            vi = (vi * vi.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)
        (ir_guidance, ir_labels), (vi_guidance, _) = (
            self._mask_tensors(mask, ir, name) for mask, name in zip(_both(masks), MODALITIES, strict=True)
        )
        fused: Tensor = self.network(ir, vi, ir_guidance, vi_guidance, ir_labels)
        return fused

    def _mask_tensors(self, masks: Any, images: Tensor, name: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Guidance, float Bx2xHxW, and labels, int64 BxHxW, of the masks of a batch."""
        if masks is None:
            return None, None
        shape = (images.shape[2], images.shape[3])
        argument = f"masks of {name}"
        if isinstance(masks, Tensor):
            masks = (masks.float() if masks.is_floating_point() else masks).detach().cpu().numpy()
        if not (isinstance(masks, (list, tuple)) or (isinstance(masks, np.ndarray) and masks.ndim == 3)):
            raise UsageError(f"`{argument}` {described(masks)}: give label maps BxHxW")
        maps = [mask for array in masks if (mask := as_mask(array, shape, argument)) is not None]
        if len(maps) != len(images):
            raise UsageError(f"`{argument}`: {len(maps)} for a batch of {len(images)}; give one for each image")
        guidance, labels = (np.stack([make(mask) for mask in maps]) for make in (guidance_inputs, segment_labels))
        return torch.from_numpy(guidance).to(images), torch.from_numpy(labels).to(images.device)


def _network_file(model: str | os.PathLike[str]) -> Path:
    path = find_network(as_path(model, "model"))
    if path.is_dir():
        raise CheckpointError(f"`model` {path}: a folder; open it with `Fuser.from_pretrained`")
    if not path.exists():
        raise CheckpointError(f"`model` {path}: no such file; give thfuse_lite or thfuse_tiny, or a file of `train()`")
    return path


def _both(masks: MaskPair) -> tuple[MaskInput, MaskInput]:
    if masks is None:
        return None, None
    if not isinstance(masks, (tuple, list)) or len(masks) != 2:
        raise UsageError(f"`masks` {described(masks)}: give two, of `ir` and of `vi`; None for one that there is not")
    return masks[0], masks[1]


def _masks_of(pair: Any) -> MaskPair:
    """Raises UsageError for what is no pair."""
    if not isinstance(pair, (tuple, list)) or len(pair) not in (2, 3):
        raise UsageError(f"`pairs` has {described(pair)}; each is (ir, vi) or (ir, vi, masks)")
    masks: MaskPair = pair[2] if len(pair) > 2 else None
    return masks


def _has_mask(masks: MaskPair) -> bool:
    return any(mask is not None for mask in _both(masks))


def _require_masks(emphasis: EmphasisInput, masks: Iterable[MaskPair]) -> None:
    """Raise UsageError for an emphasis of all segments where no pair has a mask."""
    if isinstance(emphasis, str) and not any(map(_has_mask, masks)):
        raise UsageError(f"`emphasis` {shown(emphasis)}: it is for segments of masks; give `masks`")


def _in_range(images: Tensor, name: str) -> Tensor:
    """Images as float32. Raises UsageError for values outside of [0, 1], but for rounding."""
    try:
        low, high = (float(limit) for limit in images.detach().aminmax())
    except (NotImplementedError, RuntimeError):  # sparse, or without values
        raise UsageError(f"`{name}` is {images.layout} on {images.device}; give a dense tensor") from None
    if not images.is_floating_point() or not (low > -1e-3 and high < 1 + 1e-3):
        raise UsageError(f"`{name}` is {images.dtype} from {low:.4g} to {high:.4g}; give a float tensor in [0, 1]")
    return images.float()


def _emphasis_plan(emphasis: EmphasisInput, samples: Sequence[FusionSample]) -> EmphasisPlan:
    """Raises UsageError for what is no emphasis, and for that of a segment which a sample has not."""
    plan = EmphasisPlan(chosen={_NAME: emphasis}) if isinstance(emphasis, Mapping) else EmphasisPlan(emphasis)
    chosen = plan.chosen.get(_NAME, {})
    for choice in (plan.usual, *chosen.values()):
        if choice not in (None, *get_args(Emphasis)):
            raise UsageError(f"`emphasis` {shown(choice)}: unknown; use one of {', '.join(get_args(Emphasis))}")
    for sample in samples if chosen else ():
        labels = {"ir": sample["ir_labels"].unique().tolist(), "vi": sample["vi_labels"].unique().tolist()}
        for key in chosen.keys() - {(name, label) for name in labels for label in labels[name] if label}:
            raise UsageError(f"`emphasis` of {key!r}: no such segment; give ('ir' or 'vi', a label that its mask has)")
    return plan
