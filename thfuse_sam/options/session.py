"""Limits of what a session in the browser opens."""

from dataclasses import dataclass

from thfuse_sam.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Options, group="server"):
    """Limits of an image that a session opens; a larger one is refused before it is decoded."""

    max_upload_mb: float = option(50.0, "largest file, MiB", above=0)
    max_megapixels: float = option(16.0, "largest image, millions of pixels", above=0)

    @property
    def max_bytes(self) -> int:
        return int(self.max_upload_mb * 2**20)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)
