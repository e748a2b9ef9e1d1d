"""Rendered street scenes as paired infrared and visible images with an instance label map for each.

`python -m thfuse_sam.datasets.synthetic --output DIR` writes a data set of them.
"""

from thfuse_sam.datasets.synthetic.scene import MIN_PIXELS, MIN_SIZE, Scene, render_scene
from thfuse_sam.datasets.synthetic.weather import CONDITIONS, Condition

__all__ = ["CONDITIONS", "MIN_PIXELS", "MIN_SIZE", "Condition", "Scene", "render_scene"]
