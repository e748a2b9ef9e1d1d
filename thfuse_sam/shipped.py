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
    """The file of a network that ships for its bare name, such as thfuse_lite; `find_shipped` for any other path."""
    named = shipped_root() / "models" / f"{path.name}.safetensors"
    return named if str(path) == path.name and named.is_file() else find_shipped(path)
