"""Options of `thfuse-app`."""

from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import option, redefault
from thfuse_sam.options.groups import TEST_SAMPLE, DeviceOptions, ModelOptions, SamOptions
from thfuse_sam.options.session import LimitSettings


@dataclass(frozen=True, kw_only=True)
class AppOptions(ModelOptions, SamOptions, DeviceOptions, LimitSettings, group=LimitSettings.group):
    """What fuses, and where its page is served."""

    sam_model_type: str = redefault(SamOptions, "sam_model_type", "vit_nano")
    sample_path: Path = option(TEST_SAMPLE, "folder of pairs to pick from")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: reachable by others")
    port: int = option(7860, "0: any free one", low=0)
    allow_folders: bool = option(False, "offer fusing folders of this machine also where others can reach the page")
