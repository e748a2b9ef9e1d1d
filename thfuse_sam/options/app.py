"""Options of `thfuse-app`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thfuse_sam.options.fields import Options, option, redefault
from thfuse_sam.options.shared import TEST_SAMPLE, DeviceOptions, InfraredOptions, ModelOptions, SamOptions


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Options, group="server"):
    """Limits of an image that a session opens; a larger one is refused before it is decoded."""

    max_upload_mb: float = option(50.0, "largest file that may be uploaded, MiB", above=0)
    max_megapixels: float = option(16.0, "largest image, millions of pixels", above=0)

    @property
    def max_bytes(self) -> int:
        return int(self.max_upload_mb * 2**20)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class AppOptions(ModelOptions, SamOptions, InfraredOptions, DeviceOptions, LimitSettings, group=LimitSettings.group):
    """Which network and SAM fuse, and where the page is served."""

    sam_model_type: str = redefault(SamOptions, "sam_model_type", "vit_nano")
    ir_range: tuple[float | Literal["dataset", "image"], ...] | None = redefault(
        InfraredOptions,
        "ir_range",
        None,
        help="numbers of images of more than 8 bits that become black and white; image: of each image its own",
        metavar="LOW HIGH|image",
        default_text="as the network was trained, else image",
    )
    more_sams: tuple[str, ...] = option(
        (),
        "further SAMs to choose on the page: types, files of weights, folders or owner/name of Hugging Face models",
        metavar="SAM",
    )
    sample_path: Path = option(TEST_SAMPLE, "folder of sample pairs to pick from")
    host: str = option("127.0.0.1", "address to listen on; with 0.0.0.0 other machines reach the page")
    port: int = option(7860, "port to listen on; 0: any free one", low=0)
    allow_folders: bool = option(False, "offer to fuse folders of this machine even if others can reach the page")
