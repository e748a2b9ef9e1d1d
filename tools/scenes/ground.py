"""The ground: its surfaces, rectangles of it, and the shadows on it."""

import cv2
import numpy as np

from tools.scenes.canvas import Surface
from tools.scenes.stage import Stage

NEAREST = 0.7  # metres from the camera, where the ground begins
FARTHEST = 600.0  # metres from the camera, where the ground ends


def ground_surfaces(stage: Stage) -> dict[str, Surface]:
    """The surfaces of roads, sidewalks, lawns and markings of a scene."""
    weather, rng = stage.weather, stage.rng
    heat = weather.ground_heat
    grey = rng.uniform(78, 104)
    pave = rng.uniform(138, 172)
    green = rng.uniform(0.85, 1.1)
    return {
        "asphalt": Surface((grey, grey, grey + 4), heat, rough=0.11),
        "tracks": Surface((grey, grey, grey + 4), heat + 5, rough=0.11),
        "pavement": Surface((pave + 6, pave, pave - 10), heat - 12, rough=0.09),
        "seam": Surface((120, 116, 108), heat - 12 - 3, rough=0.05),
        "kerb": Surface((186, 184, 178), heat - 16, rough=0.05),
        "grass": Surface((92 * green, 122 * green, 62 * green), heat - 30, rough=0.24),
        "paint": Surface((232, 232, 226), heat, rough=0.06),
        "plot": Surface((150, 142, 124), heat - 20, rough=0.16),
    }


def band(stage: Stage, x0: float, x1: float, z0: float, z1: float, surface: Surface, thing: int) -> None:
    """Paint a rectangle of ground."""
    stage.canvas.fill_world([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], surface, thing, stage.camera.ground())


def bake_shadows(stage: Stage) -> None:
    """Darken the ground by the shadows; done before anything is drawn that stands on it."""
    camera, canvas, weather = stage.camera, stage.canvas, stage.weather
    first = max(0, int(camera.horizon))
    shade = cv2.GaussianBlur(stage.shade[first:], (0, 0), max(0.6, camera.width / 640))
    if not shade.any():
        return
    dim = shade.astype(np.float32)[..., None] / 255
    # In the shade there is still the blue of the sky.
    sun = np.array([0.62, 0.58, 0.50], np.float32) if weather.sun > 0.3 else np.array([0.55, 0.55, 0.55], np.float32)
    ground = canvas.paint[first:]
    factor = np.dstack([1 - dim * sun, 1 - dim * (0.05 + 0.004 * weather.sun_heat)])
    ground[:] = np.rint(ground * factor)
