"""Fusion metrics in Python."""

from collections.abc import Iterable

from thfuse_sam.api.inputs import ImageInput, ValueRange, as_infrared, as_visible
from thfuse_sam.errors import ImageSizeError, UsageError, shown
from thfuse_sam.images import luma, size_text
from thfuse_sam.metrics import METRICS, fusion_metrics
from thfuse_sam.metrics.arrays import SMALLEST_SIDE
from thfuse_sam.options.shared import Polarity


def metrics(
    fused: ImageInput,
    ir: ImageInput,
    vi: ImageInput,
    names: str | Iterable[str] | None = None,
    *,
    value_range: ValueRange | None = None,
    ir_polarity: Polarity = "white-hot",
) -> dict[str, float]:
    """The metrics of one fused image, as `thfuse fuse --metrics` computes them of the fused luma.

    Args:
        fused, ir, vi: paths, PIL images, or arrays HxW or HxWx3 (RGB), of one size. Colours are reduced to their luma.
        names: one or several keys of `METRICS`, which says what each is and which direction is better; None: all.
        value_range: the values that become black and white, of arrays of other types than uint8 and of infrared files
            of more than 8 bits.
        ir_polarity: "black-hot" where what is warm is dark in `ir`.

    Returns:
        the values by name; nan where an image is too small for a metric.

    Raises:
        ImageReadError, UsageError, ImageSizeError: what is given are no images of one size.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> ir, vi = np.zeros((48, 64), np.uint8), np.full((48, 64, 3), 90, np.uint8)
        >>> th.metrics(th.fuse(ir, vi, gray=True), ir, vi, "EN").keys()
        dict_keys(['EN'])
        >>> th.METRICS["Nabf"].title, th.METRICS["Nabf"].better
        ('fusion artefacts', 'lower')
    """
    wanted = list(METRICS) if names is None else list(names) if isinstance(names, Iterable) else [names]
    wanted = [names] if isinstance(names, str) else wanted
    for name in wanted:
        if not isinstance(name, str) or name not in METRICS:
            raise UsageError(f"`names` {shown(name)}: no such metric; the known ones are {', '.join(METRICS)}")
    images = [
        luma(as_visible(fused, "fused", value_range)),
        as_infrared(ir, "ir", value_range, ir_polarity),
        luma(as_visible(vi, "vi", value_range)),
    ]
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(size_text(image.shape) for image in images)
        raise ImageSizeError(f"`fused`, `ir` and `vi` are {sizes} (width x height); give images of one size")
    if min(images[0].shape) < SMALLEST_SIDE:
        raise ImageSizeError(f"`fused` is {size_text(images[0].shape)}; give images of at least 2x2 pixels")
    return fusion_metrics(images[0], images[1], images[2], wanted)
