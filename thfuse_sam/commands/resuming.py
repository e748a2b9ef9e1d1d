"""Which checkpoint a training goes on from."""

import logging
from pathlib import Path

from thfuse_sam.errors import OptionError
from thfuse_sam.options.fields import AUTO

log = logging.getLogger(__name__)


def checkpoint_to_resume(asked: Path | None, latest: Path) -> Path | None:
    """The file that `resume` means: none, the one that is named, or `latest` where it exists. Raises OptionError."""
    if asked is None:
        return None
    if str(asked) == AUTO:
        if not latest.exists():
            log.info("`resume`: no %s yet, so training starts from the beginning", latest)
            return None
        return latest
    if not asked.is_file():
        raise OptionError("resume", asked, f"no such file; give a {latest.name}, or '{AUTO}' for {latest} if any")
    return asked
