"""What ships beside the code: `models/` and `datasets/sample/`."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds them: the checkout; in a package installed from a wheel, the copy that setup.py puts in."""
    carried = _PACKAGE / "shipped"
    return carried if carried.is_dir() else _PACKAGE.parent


def find_shipped(path: Path) -> Path:
    """`path` where it exists, else the shipped one of that name, if any: samples and models work from any folder."""
    shipped = shipped_root() / path
    return path if path.exists() or not shipped.exists() else shipped
