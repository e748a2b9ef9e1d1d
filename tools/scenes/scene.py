"""Laying out a street and rendering it for both cameras."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thfuse_sam.errors import UsageError
from tools.scenes.canvas import Camera, Canvas
from tools.scenes.ground import bake_shadows
from tools.scenes.labels import label_maps
from tools.scenes.optics import infrared_image, visible_image
from tools.scenes.sky import paint_sky
from tools.scenes.stage import Stage
from tools.scenes.street_across import across_street
from tools.scenes.street_along import along_street
from tools.scenes.weather import CONDITIONS, Condition, make_weather

MIN_SIZE = 32  # pixels, either side


@dataclass(frozen=True)
class Scene:
    """One scene as two registered cameras see it.

    Labels are 1..K over both maps; 0 is "no object". A label means the same object in both maps, and each of 1..K is in
    at least one of them: a person in darkness is in `infrared_labels` only, a lane marking in `visible_labels` only.
    """

    visible: NDArray[np.uint8]  # HxWx3 RGB
    infrared: NDArray[np.uint8]  # HxW, hot is bright
    visible_labels: NDArray[np.uint16]  # HxW
    infrared_labels: NDArray[np.uint16]  # HxW
    condition: Condition
    names: dict[int, str]  # label -> class of the object ("person", "house", "sky", ...)


def render_scene(seed: int, *, height: int = 480, width: int = 640, condition: Condition | None = None) -> Scene:
    """Render the scene number `seed`; `condition` None draws one of CONDITIONS. Equal arguments give equal bytes."""
    if min(height, width) < MIN_SIZE:
        raise UsageError(f"height and width are {height} and {width}; both must be at least {MIN_SIZE}")
    if condition is not None and condition not in CONDITIONS:
        raise UsageError(f"condition is {condition!r}; choose one of {', '.join(CONDITIONS)}")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must not be negative")
    rng = np.random.default_rng(seed)
    drawn = CONDITIONS[int(rng.integers(len(CONDITIONS)))]
    weather = make_weather(rng, condition or drawn)
    along = bool(rng.random() < 0.68) or (weather.dark and weather.condition == "glare")
    size = max(width, height * 1.1)
    camera = Camera(
        height=height,
        width=width,
        focal=float(size * (rng.uniform(0.85, 1.15) if along else rng.uniform(0.9, 1.35))),
        centre_x=float(width * (rng.uniform(0.3, 0.7) if along else 0.5)),
        horizon=float(height * rng.uniform(0.38, 0.5)),
        eye=float(rng.uniform(1.5, 2.4)),
    )
    stage = Stage(Canvas(camera), weather, rng)
    paint_sky(stage)
    actors = along_street(stage) if along else across_street(stage)
    actors.sort(key=lambda actor: -actor.z)
    for actor in actors:
        actor.shadow(stage)
    bake_shadows(stage)
    for actor in actors:
        actor.draw(stage)
    depth, rough = stage.canvas.depth(), stage.canvas.rough()
    visible, visible_clean = visible_image(stage, depth, rough)
    infrared, infrared_clean = infrared_image(stage, depth, rough)
    maps, names = label_maps(stage.canvas, visible_clean, infrared_clean, weather.noise)
    return Scene(visible, infrared, maps[0], maps[1], weather.condition, names)
