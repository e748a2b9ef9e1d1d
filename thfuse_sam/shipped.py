"""What ships beside the code: `models/` and `datasets/sample/`."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds them: the checkout, or in an installed wheel the copy inside the package."""
    packaged = _PACKAGE / "shipped"
    return packaged if packaged.is_dir() else _PACKAGE.parent


def find_shipped(path: Path) -> Path:
    """`path` if it exists, else what ships under that path, if anything, so that samples and models are found anywhere.

    If neither exists, `path` is returned.
    """
    shipped = shipped_root() / path
    return path if path.exists() or not shipped.exists() else shipped


def find_network(path: Path) -> Path:
    """`find_shipped`, also for the bare name of a network that ships, such as thfuse_lite."""
    named = shipped_root() / "models" / f"{path}.safetensors"
    return find_shipped(path) if path.exists() or not named.is_file() else named
