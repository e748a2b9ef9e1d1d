"""What is fetched once and kept: the cache folder, and downloads that are complete and checked or not there at all."""

import os
from pathlib import Path

import pooch
import requests

from thfuse_sam.errors import DownloadError
from thfuse_sam.time_limit import within

CACHE_VARIABLE = "SAM_CACHE"  # environment variable: the cache folder
OFFLINE_VARIABLE = "THFUSE_OFFLINE"  # environment variable: 1 for never downloading

_PROBE_SECONDS = 4.0  # to learn whether a server answers
_READ_SECONDS = 30.0  # of silence before a download that has begun is given up
_BLOCK = 1 << 20  # bytes


def cache_folder() -> Path:
    """Where downloads and embeddings are kept: the folder in SAM_CACHE, else the user's cache."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path(pooch.os_cache("thfuse-sam"))


def download(url: str, target: Path, sha256: str | None) -> None:
    """Fetch `url` to `target`; `sha256` None takes any content.

    Raises DownloadError with the reason in a few words; nothing half-done stays behind.
    """
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        raise DownloadError(f"{OFFLINE_VARIABLE} forbids the download")
    if not _answers(url):
        raise DownloadError("the server does not answer")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(_PROBE_SECONDS, _READ_SECONDS), chunk_size=_BLOCK)
    pooch.get_logger().setLevel("WARNING")  # it advises in many lines to write an unknown hash down
    try:
        pooch.retrieve(url, known_hash=sha256, fname=target.name, path=target.parent, downloader=downloader)
    except (requests.RequestException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DownloadError(f"the download failed ({reason})") from error


def _answers(url: str) -> bool:
    """Whether the server answers within a few seconds, name resolution included, which has no time limit of its own."""
    try:
        within(_PROBE_SECONDS, lambda: requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=False).close())
    except (requests.RequestException, OSError):
        return False
    return True
