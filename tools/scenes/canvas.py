"""The drawing surface: each polygon in perspective paints colour, heat, glow, depth and instance at once.

World coordinates are metres: X to the right, Y up from the ground, Z away from the camera, camera at X = Z = 0.
Colours are RGB in [0, 255]; heat is a grey value of the infrared image, [0, 255].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[float, float, float]
Position = tuple[float, float, float]  # world (X, Y, Z), metres
# (a, b, c): a plane seen in perspective has the inverse depth 1 / Z = a x + b y + c at the pixel (x, y).
Plane = tuple[float, float, float]
Floats = NDArray[np.float32]
Points = NDArray[np.float64]

NEAR = 0.6  # metres; nothing closer to the camera is drawn
BLACK: Colour = (0.0, 0.0, 0.0)
_SHIFT = 4  # fractional bits of a polygon's corners: they are given in sixteenths of a pixel
_LIMIT = 480000.0  # sixteenths of a pixel; corners farther out are moved to this distance


@lru_cache(maxsize=1)
def noise_tile() -> Floats:
    """512x512 tile of fine noise, mean 0, standard deviation 1, that repeats seamlessly: the grain of all surfaces."""
    rng = np.random.default_rng(20260)
    tile = np.zeros((512, 512), np.float32)
    for cells, weight in ((16, 0.6), (64, 0.8), (128, 0.9), (256, 1.0), (512, 0.6)):
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        # Padding by wrapping before upsampling keeps the tile seamless.
        wrapped = np.pad(grid, 2, mode="wrap")
        scale = 512 // cells
        large = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        tile += weight * large[2 * scale : 2 * scale + 512, 2 * scale : 2 * scale + 512]
    tile -= tile.mean()
    tile /= tile.std()
    tile.setflags(write=False)
    return tile


def upsample(image: Floats, width: int, height: int) -> Floats:
    """`image`, float32 HxW or HxWxC, resized bilinearly."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def grain(rng: np.random.Generator, height: int, width: int, pixels_per_cell: float) -> Floats:
    """HxW float32 noise, standard deviation about 1: a random part of the tile, upsampled by `pixels_per_cell`."""
    rows = max(2, int(np.ceil(height / pixels_per_cell)) + 1)
    columns = max(2, int(np.ceil(width / pixels_per_cell)) + 1)
    y, x = (int(v) for v in rng.integers(0, 512, 2))
    tile = noise_tile()
    piece = tile[np.ix_((np.arange(rows) + y) % 512, (np.arange(columns) + x) % 512)]
    if pixels_per_cell == 1.0:
        return piece[:height, :width].copy()
    size = (max(width, int(columns * pixels_per_cell)), max(height, int(rows * pixels_per_cell)))
    return upsample(piece, *size)[:height, :width]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along Z; its axis may be shifted, never turned, so that uprights stay upright."""

    height: int  # pixels
    width: int  # pixels
    focal: float  # pixels
    centre_x: float  # pixels, column of the vanishing point
    horizon: float  # pixels, row of the horizon
    eye: float  # metres above the ground

    def project(self, points: ArrayLike) -> Points:
        """World points Nx3 -> pixels Nx2 (x, y)."""
        world = np.asarray(points, np.float64)
        scale = self.focal / world[:, 2]
        out = np.empty((len(world), 2))
        np.multiply(world[:, 0], scale, out=out[:, 0])
        np.multiply(self.eye - world[:, 1], scale, out=out[:, 1])
        out += (self.centre_x, self.horizon)
        return out

    def beside(self, x0: float, x1: float, z: float) -> bool:
        """Whether all of x0..x1 (metres) at distance `z` is outside the image, at its left or right."""
        left, right = (self.centre_x + x * self.focal / z for x in (x0, x1))
        return right < 0 or left >= self.width

    def scale(self, z: float) -> float:
        """Pixels per metre at distance `z`."""
        return self.focal / z

    def facing(self, z: float) -> Plane:
        """The upright plane at distance `z` that faces the camera."""
        return (0.0, 0.0, 1.0 / z)

    def ground(self) -> Plane:
        """The plane of the ground."""
        return (0.0, 1.0 / (self.focal * self.eye), -self.horizon / (self.focal * self.eye))

    def side(self, x: float) -> Plane:
        """The upright plane along Z at lateral position `x` (not 0)."""
        return (1.0 / (self.focal * x), 0.0, -self.centre_x / (self.focal * x))


@dataclass(frozen=True)
class Surface:
    """How a polygon looks to both cameras."""

    colour: Colour
    heat: float  # grey value of the infrared image
    glow: Colour = BLACK  # light that the surface sends out itself
    rough: float = 0.0  # strength of the grain, 0 to about 0.3

    def tinted(self, factor: float) -> "Surface":
        """The same surface under `factor` times the light."""
        r, g, b = (min(255.0, c * factor) for c in self.colour)
        return Surface((r, g, b), self.heat, self.glow, self.rough)


@dataclass
class Thing:
    """One labelled object. A part (a window) has the thing it belongs to as `parent`, 0 for none."""

    name: str
    parent: int = 0
    background: bool = False  # is labelled even where its outline cannot be seen


@dataclass
class Canvas:
    """Layers of a scene, all at the image's size, painted from far to near."""

    camera: Camera
    paint: NDArray[np.uint8] = field(init=False)  # HxWx4: red, green, blue, heat
    glow: NDArray[np.uint8] = field(init=False)  # HxWx3
    glow_end: int = 0  # first row below which nothing glows
    parts: NDArray[np.int32] = field(init=False)  # HxW: index of the polygon that is in front
    things: list[Thing] = field(default_factory=lambda: [Thing("nothing")])
    # One entry per polygon: its thing, plane, strength of grain, and shape (corners, or top left and mask).
    part_thing: list[int] = field(default_factory=list)
    part_plane: list[Plane] = field(default_factory=list)
    part_rough: list[float] = field(default_factory=list)
    part_shape: list[tuple[NDArray[np.int32], NDArray[np.bool_] | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        h, w = self.camera.height, self.camera.width
        self.paint = np.zeros((h, w, 4), np.uint8)
        self.glow = np.zeros((h, w, 3), np.uint8)
        self.parts = np.zeros((h, w), np.int32)

    def thing(self, name: str, *, parent: int = 0, background: bool = False) -> int:
        """Register an object; returns its number."""
        self.things.append(Thing(name, parent, background))
        return len(self.things) - 1

    def fill(self, points: ArrayLike, surface: Surface, thing: int, plane: Plane) -> None:
        """Fill a polygon given in pixels, Nx2 (x, y)."""
        corners = np.asarray(points, np.float64) * (1 << _SHIFT)
        np.minimum(np.maximum(corners, -_LIMIT, out=corners), _LIMIT, out=corners)
        polygon: Any = np.rint(corners, out=corners).astype(np.int32)[None]
        left, top, wide, high = cv2.boundingRect(polygon)
        if left + wide < 0 or top + high < 0 or wide + high < 14:
            return
        if left >= self.camera.width << _SHIFT or top >= self.camera.height << _SHIFT:
            return
        cv2.fillPoly(self.paint, polygon, (*surface.colour, surface.heat), cv2.LINE_AA, _SHIFT)
        if surface.glow != BLACK:
            self.glow_end = max(self.glow_end, ((top + high) >> _SHIFT) + 3)
        if top >> _SHIFT <= self.glow_end:
            cv2.fillPoly(self.glow, polygon, surface.glow, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.parts, polygon, self._part(thing, plane, surface.rough, polygon, None), cv2.LINE_8, _SHIFT)

    def fill_world(self, points: ArrayLike, surface: Surface, thing: int, plane: Plane) -> None:
        """Fill a polygon given in world coordinates, Nx3; what is nearer than NEAR is cut off."""
        world = np.asarray(points, np.float64)
        if world[:, 2].min() < NEAR:
            world = _cut_near(world)
            if len(world) < 3:
                return
        self.fill(self.camera.project(world), surface, thing, plane)

    def stamp(
        self, x: int, y: int, alpha: Floats, colour: Floats, heat: Floats, thing: int, plane: Plane, rough: float = 0.0
    ) -> None:
        """Blend a sprite with its top left at (x, y): alpha hxw in [0, 1], colour hxwx3 and heat hxw in [0, 255]."""
        h, w = alpha.shape
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(h, self.camera.height - y), min(w, self.camera.width - x)
        if top >= bottom or left >= right:
            return
        inside = np.s_[top:bottom, left:right]
        window = np.s_[y + top : y + bottom, x + left : x + right]
        opacity = alpha[inside][..., None]
        sprite = np.dstack([colour[inside], heat[inside]])
        paint = self.paint[window]
        paint[:] = np.rint(paint + (sprite - paint) * opacity)
        glow = self.glow[window]
        glow[:] = np.rint(glow * (1 - opacity))
        solid = alpha[inside] > 0.5
        corner = np.array([x + left, y + top], np.int32)
        self.parts[window][solid] = self._part(thing, plane, rough, corner, solid)

    def _part(
        self, thing: int, plane: Plane, rough: float, shape: NDArray[np.int32], mask: NDArray[np.bool_] | None
    ) -> int:
        """Register a polygon or sprite; returns its index in the layer `parts`."""
        self.part_thing.append(thing)
        self.part_plane.append(plane)
        self.part_rough.append(rough)
        self.part_shape.append((shape, mask))
        return len(self.part_thing) - 1

    def depth(self) -> Floats:
        """HxW float32 distance along Z in metres; the sky is 10 km away."""
        a, b, c = np.array(self.part_plane, np.float32).T
        x = np.arange(self.camera.width, dtype=np.float32)
        y = np.arange(self.camera.height, dtype=np.float32)[:, None]
        inverse = c[self.parts]
        inverse += a[self.parts] * x
        inverse += b[self.parts] * y
        return 1.0 / np.maximum(inverse, 1e-4)

    def rough(self) -> Floats:
        """HxW float32 strength of the grain."""
        return np.array(self.part_rough, np.float32)[self.parts]

    def labels(self, thing_labels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint16]:
        """HxW label map. `thing_labels[thing]` is the thing's label; one with 0 is transparent."""
        part_labels = np.asarray(thing_labels)[np.array(self.part_thing)]
        if part_labels.all():
            return part_labels[self.parts].astype(np.uint16)
        out = np.zeros(self.parts.shape, np.uint16)
        shape: Any
        for label, (shape, mask) in zip(part_labels.tolist(), self.part_shape, strict=True):
            if not label:
                continue
            if mask is None:
                cv2.fillPoly(out, shape, label, cv2.LINE_8, _SHIFT)
            else:
                x, y = shape
                out[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = label
        return out


def _cut_near(world: Points) -> Points:
    """The part of a polygon beyond the plane Z = NEAR."""
    kept: list[Points] = []
    for corner, following in zip(world, np.roll(world, -1, 0), strict=True):
        if corner[2] >= NEAR:
            kept.append(corner)
        if (corner[2] >= NEAR) != (following[2] >= NEAR):
            kept.append(corner + (following - corner) * ((NEAR - corner[2]) / (following[2] - corner[2])))
    return np.array(kept)


def rectangle(x0: float, x1: float, y0: float, y1: float) -> Points:
    """Corners of an upright rectangle, 4x2."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def circle(x: float, y: float, rx: float, ry: float | None = None, corners: int = 16) -> Points:
    """Corners of an ellipse, Nx2."""
    return _unit_circle(corners) * (rx, rx if ry is None else ry) + (x, y)


@lru_cache(maxsize=16)
def _unit_circle(corners: int) -> Points:
    angle = np.arange(corners) * (2 * np.pi / corners)
    out = np.stack([np.cos(angle), np.sin(angle)], 1)
    out.setflags(write=False)
    return out


@lru_cache(maxsize=16)
def _half_circle(corners: int) -> Points:
    angle = np.linspace(np.pi / 2, 3 * np.pi / 2, corners)
    out = np.stack([np.cos(angle), np.sin(angle)], 1)
    out.setflags(write=False)
    return out


def limb(x0: float, y0: float, r0: float, x1: float, y1: float, r1: float, corners: int = 6) -> Points:
    """Outline of two discs and what lies between them, Nx2: an arm, a leg, a pole."""
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy) or 1.0
    cos, sin = dx / length, dy / length
    cap = _half_circle(corners) @ np.array([[cos, sin], [-sin, cos]])
    out = np.empty((2 * corners, 2))
    out[:corners] = cap * r0 + (x0, y0)
    out[corners:] = cap * -r1 + (x1, y1)
    return out
