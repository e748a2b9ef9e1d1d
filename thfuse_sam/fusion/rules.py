"""Simple rules of fusion, without a network: what every comparison should hold beside its networks."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray

_Image = npt.NDArray[np.float64]  # HxW; in [0, 255] unless said otherwise

_LEVELS = 4  # of the Laplacian pyramid
_SMALLEST_SIDE = 8  # pixels; a side is not halved below this
# Guided filtering as published: side of the mean filter, and radius and regularisation for both layers.
_MEAN_SIDE = 31
_SALIENCY_SIDE, _SALIENCY_SIGMA = 11, 5.0
_BASE_FILTER, _DETAIL_FILTER = (45, 0.3), (7, 1e-6)


def average(infrared: _Image, visible: _Image) -> _Image:
    """The mean of both."""
    return (infrared + visible) / 2


def laplacian_pyramid(infrared: _Image, visible: _Image) -> _Image:
    """The detail of larger amount at each scale, the mean at the coarse end.

    Source: P. J. Burt, E. H. Adelson, "The Laplacian pyramid as a compact image code", IEEE Transactions on
    Communications 31, 1983.
    """
    details, sources = [], [infrared, visible]
    for _ in range(_LEVELS):
        if min(sources[0].shape) < 2 * _SMALLEST_SIDE:
            break
        coarse = [np.asarray(cv2.pyrDown(source), np.float64) for source in sources]
        ir, vi = (fine - _enlarge(small, fine) for fine, small in zip(sources, coarse, strict=True))
        details.append(np.where(np.abs(ir) > np.abs(vi), ir, vi))
        sources = coarse
    fused = average(*sources)
    for detail in reversed(details):
        fused = _enlarge(fused, detail) + detail
    return fused


def guided_filtering(infrared: _Image, visible: _Image) -> _Image:
    """A coarse and a fine layer, each weighed by which source is more salient, smoothed along that source's edges.

    Source: S. Li, X. Kang, J. Hu, "Image fusion with guided filtering", IEEE Transactions on Image Processing 22, 2013.
    """
    sources = infrared / 255, visible / 255
    saliencies = [_saliency(source) for source in sources]
    first = (saliencies[0] > saliencies[1]).astype(np.float64)
    fused = np.zeros(infrared.shape)
    bases = [cv2.blur(source, (_MEAN_SIDE, _MEAN_SIDE)) for source in sources]
    details = [source - base for source, base in zip(sources, bases, strict=True)]
    for layers, (radius, smoothness) in ((bases, _BASE_FILTER), (details, _DETAIL_FILTER)):
        weights = [
            _guided_filter(source, weight, radius, smoothness)
            for source, weight in zip(sources, (first, 1 - first), strict=True)
        ]
        total = np.maximum(weights[0] + weights[1], 1e-12)
        fused += (weights[0] * layers[0] + weights[1] * layers[1]) / total
    return fused * 255


RULES: Mapping[str, Callable[[_Image, _Image], _Image]] = {
    "avg": average,
    "max": np.maximum,
    "LP": laplacian_pyramid,
    "GFF": guided_filtering,
}


def fuse_by_rule(name: str, infrared: ImageArray, visible: ImageArray) -> ImageArray:
    """Fuse infrared and visible luma, uint8 HxW each, by one of RULES: uint8 HxW."""
    fused = RULES[name](infrared.astype(np.float64), visible.astype(np.float64))
    return np.rint(np.clip(fused, 0, 255)).astype(np.uint8)


def _enlarge(image: _Image, like: _Image) -> _Image:
    return np.asarray(cv2.pyrUp(image, dstsize=like.shape[::-1]), np.float64)


def _saliency(source: _Image) -> _Image:
    detail = np.abs(cv2.Laplacian(source, cv2.CV_64F))
    return np.asarray(cv2.GaussianBlur(detail, (_SALIENCY_SIDE, _SALIENCY_SIDE), _SALIENCY_SIGMA))


def _guided_filter(guide: _Image, image: _Image, radius: int, smoothness: float) -> _Image:
    """Smooth `image` along the edges of `guide`, both in [0, 1] (K. He, J. Sun, X. Tang, ECCV 2010)."""

    def mean(values: _Image) -> _Image:
        return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1)))

    mean_guide, mean_image = mean(guide), mean(image)
    slope = (mean(guide * image) - mean_guide * mean_image) / (mean(guide**2) - mean_guide**2 + smoothness)
    return mean(slope) * guide + mean(mean_image - slope * mean_guide)
