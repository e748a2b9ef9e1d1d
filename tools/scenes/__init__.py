"""Rendered street scenes as paired infrared and visible images with an instance label map for each.

`python -m tools.scenes --output DIR` writes a data set of them.
"""

from tools.scenes.labels import MIN_PIXELS
from tools.scenes.scene import MIN_SIZE, Scene, render_scene
from tools.scenes.weather import CONDITIONS, Condition

__all__ = ["CONDITIONS", "MIN_PIXELS", "MIN_SIZE", "Condition", "Scene", "render_scene"]
