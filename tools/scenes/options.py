"""The options of `python -m tools.scenes`."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from thfuse_sam.options.fields import Options, option
from tools.scenes import MIN_SIZE, Condition


@dataclass(frozen=True, kw_only=True)
class SceneOptions(Options, group="scenes"):
    """Which scenes are rendered, and what is written."""

    output: Path = option(MISSING, "folder in which ir/ and vi/ are written")
    count: int = option(16, "number of pairs", low=1)
    seed: int = option(0, "number of the first scene", low=0)
    height: int = option(480, "height of the images, pixels", low=MIN_SIZE)
    width: int = option(640, "width of the images, pixels", low=MIN_SIZE)
    condition: Condition | None = option(None, "condition of all scenes", default_text="all conditions in turn")
    prefix: str = option("", "beginning of every file name", default_text="none")
    labels: bool = option(False, "also write the instance label maps, labels/{ir,vi}/*.npy")
