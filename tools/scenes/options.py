"""The options of `python -m tools.scenes`."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from thfuse_sam.options.fields import Options, option
from tools.scenes import MIN_SIZE, Condition


@dataclass(frozen=True, kw_only=True)
class SceneOptions(Options, group="scenes"):
    """Which scenes are rendered, and what is written of them."""

    output: Path = option(MISSING, "folder that gets ir/ and vi/")
    count: int = option(16, "number of pairs", low=1)
    seed: int = option(0, "number of the first scene", low=0)
    height: int = option(480, "of the images, pixels", low=MIN_SIZE)
    width: int = option(640, "of the images, pixels", low=MIN_SIZE)
    condition: Condition | None = option(None, "of all scenes", default_text="they take turns")
    prefix: str = option("", "begins every file name", default_text="nothing")
    labels: bool = option(False, "also write the instance label maps, labels/{ir,vi}/*.npy")
