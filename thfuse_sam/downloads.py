"""The cache folder, and downloads into it: a file is there complete and checked, or not at all."""

import os
import warnings
from pathlib import Path

import requests

from thfuse_sam.errors import DownloadError
from thfuse_sam.time_limit import within

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that a notebook has no ipywidgets
    import pooch

CACHE_VARIABLE = "SAM_CACHE"  # environment variable: the cache folder
OFFLINE_VARIABLE = "THFUSE_OFFLINE"  # environment variable: 1 for never downloading

_PROBE_SECONDS = 4.0  # how long a server may take to answer at all
_READ_SECONDS = 30.0  # how long a server may be silent before a download that has begun is given up
_BLOCK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where downloads and embeddings are kept: the folder in SAM_CACHE, else the user's cache."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path(pooch.os_cache("thfuse-sam"))


def download(url: str, target: Path, sha256: str | None) -> None:
    """Download `url` to the file `target`.

    `sha256`: the checksum that the content must have, in hexadecimal; None accepts any content. Raises DownloadError:
    with the reason in a few words; no incomplete file stays behind.
    """
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        raise DownloadError(f"{OFFLINE_VARIABLE} forbids the download")
    if not _answers(url):
        raise DownloadError("the server does not answer")
    downloader = pooch.HTTPDownloader(
        progressbar=True, timeout=(_PROBE_SECONDS, _READ_SECONDS), chunk_size=_BLOCK_BYTES
    )
    pooch.get_logger().setLevel("WARNING")  # otherwise it advises in many lines to note a hash that was not given
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
