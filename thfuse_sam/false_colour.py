"""Thermal images drawn in false colours: noticing them, and turning the colours back into numbers."""

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray

COLORMAPS = (
    "ironbow", "autumn", "bone", "cividis", "cool", "deepgreen", "hot", "hsv", "inferno", "jet", "magma", "ocean",
    "parula", "pink", "plasma", "rainbow", "spring", "summer", "turbo", "viridis", "winter",
)  # fmt: skip
# Their colours are those of photos: roads, skies, leaves.
_LIKE_PHOTOS = {"bone", "cividis", "deepgreen", "ocean", "pink"}

# The palette of thermal cameras that is called iron or ironbow, at equal steps; makers differ a little.
_IRONBOW = (
    (0, 0, 10), (56, 0, 139), (130, 0, 152), (186, 22, 146), (219, 62, 75), (240, 105, 10), (253, 163, 0),
    (255, 217, 40), (255, 255, 246),
)  # fmt: skip

# Limits measured on colour photos (the visible images of RoadScene and MSRS, fruits, streets) and on infrared images
# drawn in each map and compressed as JPEG.
_SPREAD = 32  # difference of largest and smallest channel from which a pixel has a colour
_LEAST_COLOURED = 0.1  # share of pixels with a colour, in an image whose colours are those of a map
_NEAR, _LEAST_NEAR = 24.0, 0.85  # distance from a map's colours; share of the coloured pixels that are as near
_CELL = 16  # side of the cells of the colour cube that are counted
# (least mean difference of the channels, most cells that hold nine of ten pixels) of an image with few, strong colours,
# and of one with very few.
_STRONG, _VERY_FEW = (70.0, 200), (30.0, 20)
# Share of pixels without a colour, and of those with a strong one, from which colours lie on a grey picture.
_GREY, _LEAST_GREY, _VIVID, _LEAST_VIVID = 16, 0.85, 96, 0.002
_SAMPLE = 8000  # pixels that are looked at
_BLOCK = 1 << 14  # colours that are compared with a table at once


def colour_table(name: str) -> ImageArray:
    """The colours of one of COLORMAPS from cold to hot, uint8 256x3 RGB."""
    if name == "ironbow":
        positions = np.linspace(0, 255, len(_IRONBOW))
        channels = [np.interp(np.arange(256), positions, channel) for channel in np.transpose(_IRONBOW)]
        return np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    greys = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(greys, getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0, ::-1])


def drawn_on_grey(rgb: ImageArray) -> float:
    """The share of pixels, 0 to 1, in strong colours of an image, uint8 HxWx3, that is grey but for few; else 0.

    Cameras draw what is hot in colours, and programs draw marks.
    """
    pixels = rgb.reshape(-1, 3)
    spread = np.ptp(pixels[:: max(1, len(pixels) // _SAMPLE)].astype(np.int64), axis=1)
    vivid = float(np.mean(spread > _VIVID))
    return vivid if vivid >= _LEAST_VIVID and np.mean(spread <= _GREY) >= _LEAST_GREY else 0.0


def recognise(rgb: ImageArray) -> str | None:
    """The most similar of COLORMAPS for an image, uint8 HxWx3, that looks drawn in false colours.

    None: it is grey, or a photo.
    """
    pixels = rgb.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // _SAMPLE)].astype(np.int64)
    spread = np.ptp(pixels, axis=1)
    coloured = pixels[spread > _SPREAD]
    if len(coloured) < max(1, _LEAST_COLOURED * len(pixels)):
        return None
    shares = {name: float(np.mean(_nearest(coloured, name)[1] <= _NEAR)) for name in COLORMAPS}
    best = max(shares, key=lambda name: shares[name])
    has_its_colours = shares[best] >= _LEAST_NEAR
    cells = np.sort(np.unique(pixels // _CELL @ (1 << 16, 1 << 8, 1), return_counts=True)[1])[::-1]
    number = int(np.count_nonzero(np.cumsum(cells) < 0.9 * len(pixels))) + 1
    strong, very_few = (
        spread.mean() >= least and number <= min(most, len(pixels) // 8) for least, most in (_STRONG, _VERY_FEW)
    )
    if strong:  # no photo is, whatever map is most similar
        return max(set(COLORMAPS) - _LIKE_PHOTOS, key=lambda name: shares[name])
    return best if (has_its_colours or very_few) and best not in _LIKE_PHOTOS else None


def turn_back(rgb: ImageArray, name: str) -> tuple[ImageArray, float]:
    """The position in the map `name`, 0 to 255, of each pixel of uint8 HxWx3, and the share of pixels near to the map.

    The nearest colour counts.
    """
    codes = rgb.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    unique, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colours = np.stack([unique >> 16, (unique >> 8) & 255, unique & 255], axis=1)
    positions, distances = _nearest(colours, name)
    return positions[inverse.reshape(codes.shape)], float(counts[distances <= 2 * _NEAR].sum() / codes.size)


def _nearest(colours: npt.NDArray[np.int64], name: str) -> tuple[ImageArray, npt.NDArray[np.float32]]:
    """For each of Nx3 colours the position of the nearest one in a map, and its distance."""
    table = colour_table(name).astype(np.float32)
    positions, distances = [], []
    for start in range(0, len(colours), _BLOCK):
        block = colours[start : start + _BLOCK].astype(np.float32)
        squares = (block**2).sum(1)[:, None] - 2 * block @ table.T + (table**2).sum(1)
        nearest = squares.argmin(1)
        positions.append(nearest.astype(np.uint8))
        distances.append(np.sqrt(squares[np.arange(len(block)), nearest].clip(0)))
    return np.concatenate(positions), np.concatenate(distances)
