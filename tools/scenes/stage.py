"""What all objects of a scene use while they are drawn: canvas, weather, lamps and shadows."""

from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.scenes.canvas import Camera, Canvas, Colour, Plane, Points, Position, Surface, circle
from tools.scenes.weather import Weather


@dataclass(frozen=True)
class Lamp:
    """A street lamp that shines down, or a car's beam."""

    position: Position
    colour: Colour  # linear light at 1 m
    beam: tuple[float, float] | None = None  # (x, z) direction of a car's beam; None: a street lamp


@dataclass(frozen=True)
class UprightPlane:
    """A plane that faces the camera. Coordinates on it are metres to the right of a foot point and above the ground."""

    canvas: Canvas
    scale: float  # pixels per metre
    foot: Points  # (x, y) of the foot point, pixels
    plane: Plane

    def to_pixels(self, points: Points) -> Points:
        """Nx2 metres -> Nx2 pixels."""
        return points * [self.scale, -self.scale] + self.foot

    def fill(self, points: Points, surface: Surface, thing: int) -> None:
        """Fill a polygon given in metres, Nx2."""
        self.canvas.fill(self.to_pixels(points), surface, thing, self.plane)


@dataclass
class Stage:
    """The canvas, the weather, the lamps that are on, and the shadows on the ground."""

    canvas: Canvas
    weather: Weather
    rng: np.random.Generator
    lamps: list[Lamp] = field(default_factory=list)
    shade: NDArray[np.uint8] = field(init=False)  # HxW, 255 = full shadow

    def __post_init__(self) -> None:
        self.shade = np.zeros(self.canvas.parts.shape, np.uint8)

    @property
    def camera(self) -> Camera:
        return self.canvas.camera

    def upright(self, x: float, z: float) -> UprightPlane:
        """The plane that faces the camera with its foot at (x, z)."""
        foot = self.camera.project([(x, 0, z)])[0]
        return UprightPlane(self.canvas, self.camera.scale(z), foot, self.camera.facing(z))

    def cast(self, points: ArrayLike, strength: float = 1.0) -> None:
        """Cast the sun's shadow of a polygon on the ground; world points Nx3, metres. `strength` is in [0, 1]."""
        if strength <= 0:
            return
        world = np.array(points, np.float64)
        sx, sz = self.weather.shadow
        world[:, 0] += sx * world[:, 1]
        world[:, 2] = np.maximum(world[:, 2] + sz * world[:, 1], 1.0)
        world[:, 1] = 0.0
        corners = self.camera.project(world)
        if corners[:, 0].max() < 0 or corners[:, 0].min() >= self.camera.width:
            return
        polygon = np.rint(np.minimum(np.maximum(corners, -30000), 30000) * 16).astype(np.int32)[None]
        cv2.fillPoly(self.shade, polygon, round(255 * strength), cv2.LINE_AA, 4)

    def cast_upright(self, local: ArrayLike, x: float, z: float) -> None:
        """Cast the sun's shadow of an upright shape Nx2 (metres to the right, metres up) that stands at (x, z)."""
        if self.weather.sun > 0.3:
            flat = np.asarray(local, np.float64)
            self.cast(np.stack([flat[:, 0] + x, flat[:, 1], np.full(len(flat), z)], 1), self.weather.sun)

    def cast_contact(self, x: float, z: float, half_width: float, half_depth: float, strength: float) -> None:
        """Darken an ellipse of ground around (x, z), as it is dark under what stands there in any light."""
        ellipse = circle(x, z, half_width, half_depth, 12)
        self.cast(np.stack([ellipse[:, 0], np.zeros(12), ellipse[:, 1]], 1), strength)


class Actor(Protocol):
    """Something that stands in the scene; actors are drawn from far to near."""

    z: float  # metres

    def shadow(self, stage: Stage) -> None:
        """Darken the ground by its shadow."""

    def draw(self, stage: Stage) -> None:
        """Paint it on the canvas, and register it as labelled objects."""
