"""Metrics of edges: how much detail the fused image has, what it keeps of the sources' edges, what it invents.

All functions take uint8 HxW grey images (visible: BT.601 luma) and return a float.
"""

import cv2
import numpy as np

from thfuse_sam.metrics.arrays import Grey, Values, grey_values, ratio_or_zero

# Xydeas and Petrovic's sigmoids: ceiling, slope and centre of edge strength (g) and orientation (a).
_QABF_STRENGTH = (0.9994, -15.0, 0.5)
_QABF_ORIENTATION = (0.9879, -22.0, 0.8)

# The same parameters in Petrovic's later characterisation, on which the artefact measure rests.
_NABF_STRENGTH = (0.9999, -19.0, 0.5)
_NABF_ORIENTATION = (0.9995, -22.0, 0.5)
_NABF_SOBEL_SCALE = 1 / 8  # makes the Sobel strength a difference per pixel
_NABF_THRESHOLD = 2.0  # an edge of at least this strength has the weight strength**_NABF_EXPONENT
_NABF_EXPONENT = 1.5
_NABF_SMALLEST_WEIGHT = 0.001  # weight of weaker edges


def spatial_frequency(fused: Grey) -> float:
    """SF: root of the mean squared horizontal plus the mean squared vertical difference of neighbours.

    Source: A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE Transactions on
    Communications 43, 1995.
    """
    (values,) = grey_values(fused=fused)
    horizontal = np.mean(np.diff(values, axis=1) ** 2)
    vertical = np.mean(np.diff(values, axis=0) ** 2)
    return float(np.sqrt(horizontal + vertical))


def average_gradient(fused: Grey) -> float:
    """AG: mean of sqrt((gx^2 + gy^2) / 2), with central differences inside and one-sided ones at the border.

    Source: G. Cui, H. Feng, Z. Xu, Q. Li, Y. Chen, "Detail preserved fusion of visible and infrared images using
    regional saliency extraction and multi-scale image decomposition", Optics Communications 341, 2015.
    """
    (values,) = grey_values(fused=fused)
    vertical, horizontal = np.gradient(values)
    return float(np.mean(np.sqrt((horizontal**2 + vertical**2) / 2)))


def edge_preservation(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """Qabf: how well strength and orientation of the sources' edges are preserved, weighed by strength; 0 to 0.987.

    Sobel edges with zeros outside the image, so a constant image that is not black has edges at its border. 0 if
    neither source has an edge (both are black).

    Source: C. S. Xydeas, V. Petrovic, "Objective image fusion performance measure", Electronics Letters 36, 2000.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    fused_edges = _edges_up(values)
    preserved = weight = 0.0
    for source in (infrared_values, visible_values):
        strength, orientation = _edges_up(source)
        preserved += float(np.sum(_qabf_map(strength, orientation, *fused_edges) * strength))
        weight += float(np.sum(strength))
    return preserved / weight if weight > 0 else 0.0


def fusion_artefacts(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """Nabf: fraction of the fused image's edge information that comes from neither source; lower is better, 0 is none.

    Counts where the fused edge is stronger than both sources' edges, weighed by the strength of the sources' edges.
    Border pixels are mirrored. The first argument is the fused image: some published calls pass a source there.

    Source: B. K. Shreyamsha Kumar, "Multifocus and multispectral image fusion based on pixel significance using
    discrete cosine harmonic wavelet transform", Signal, Image and Video Processing 7, 2013; modified from V. Petrovic,
    C. Xydeas, "Objective image fusion performance characterisation", ICCV 2005.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    fused_strength, fused_orientation = _edges_mirrored(values)
    artefact = np.ones(values.shape, dtype=np.bool_)
    lost = np.zeros_like(values)
    weight = 0.0
    for source in (infrared_values, visible_values):
        strength, orientation = _edges_mirrored(source)
        artefact &= fused_strength > strength
        weights = np.where(strength >= _NABF_THRESHOLD, strength**_NABF_EXPONENT, _NABF_SMALLEST_WEIGHT)
        lost += (1 - _nabf_map(strength, orientation, fused_strength, fused_orientation)) * weights
        weight += float(np.sum(weights))
    return float(np.sum(lost[artefact])) / weight


def _sobel(image: Values, border: int) -> tuple[Values, Values]:
    """Sobel derivatives of a float64 HxW image: along x (right) and y (down)."""
    right = cv2.Sobel(image, cv2.CV_64F, 1, 0, ksize=3, borderType=border)
    down = cv2.Sobel(image, cv2.CV_64F, 0, 1, ksize=3, borderType=border)
    return np.asarray(right, dtype=np.float64), np.asarray(down, dtype=np.float64)


def _edges_up(image: Values) -> tuple[Values, Values]:
    """Edge strength, and orientation in [-pi/2, pi/2] with the y axis up; pi/2 where nothing changes along x."""
    right, down = _sobel(image, cv2.BORDER_CONSTANT)
    orientation = np.where(right == 0, np.pi / 2, np.arctan(ratio_or_zero(-down, right)))
    return np.sqrt(right * right + down * down), orientation


def _edges_mirrored(image: Values) -> tuple[Values, Values]:
    """Edge strength per pixel, and orientation in [-pi/2, pi/2] measured from the y axis; 0 where there is no edge."""
    right, down = _sobel(image, cv2.BORDER_REFLECT_101)
    level = np.where(right == 0, 0.0, np.pi / 2)
    orientation = np.where(down == 0, level, np.arctan(ratio_or_zero(right, down)))
    return np.sqrt(right * right + down * down) * _NABF_SOBEL_SCALE, orientation


def _sigmoid(similarity: Values, parameters: tuple[float, float, float]) -> Values:
    ceiling, slope, centre = parameters
    return ceiling / (1 + np.exp(slope * (similarity - centre)))


def _relative_strength(source: Values, fused: Values) -> Values:
    """Strength of the weaker edge divided by that of the stronger one, in [0, 1]; 0 where there is no edge."""
    return ratio_or_zero(np.minimum(source, fused), np.maximum(source, fused))


def _qabf_map(strength: Values, orientation: Values, fused_strength: Values, fused_orientation: Values) -> Values:
    """How well each edge of a source is preserved, HxW in [0, 1]."""
    # Where both are equal, the authors' code takes the strength itself, not 1; published values contain this.
    similar = np.where(strength == fused_strength, fused_strength, _relative_strength(strength, fused_strength))
    aligned = 1 - np.abs(orientation - fused_orientation) / (np.pi / 2)
    return _sigmoid(similar, _QABF_STRENGTH) * _sigmoid(aligned, _QABF_ORIENTATION)


def _nabf_map(strength: Values, orientation: Values, fused_strength: Values, fused_orientation: Values) -> Values:
    """How well each edge of a source is preserved by the later characterisation, HxW in [0, 1]."""
    similar = _relative_strength(strength, fused_strength)
    # Orientations half a turn apart are the same orientation.
    aligned = np.abs(np.abs(orientation - fused_orientation) - np.pi / 2) * 2 / np.pi
    return np.sqrt(_sigmoid(similar, _NABF_STRENGTH) * _sigmoid(aligned, _NABF_ORIENTATION))
