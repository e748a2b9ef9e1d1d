"""What ships beside the code: `models/` and `datasets/sample/`."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_root() -> Path:
    """The folder that holds them: the checkout; in a package installed from a wheel, the copy that setup.py puts in."""
    carried = _PACKAGE / "shipped"
    return carried if carried.is_dir() else _PACKAGE.parent
