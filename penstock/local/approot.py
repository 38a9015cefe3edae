"""Where the application's folders are: in the checkout, or carried inside the wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def app_root() -> Path:
    """The folder that must be on ``PYTHONPATH`` for ``celery -A workers.app``."""
    carried = _PACKAGE / "_app"
    return carried if carried.is_dir() else package_root()


def package_root() -> Path:
    """The folder from which ``import penstock`` finds this package."""
    return _PACKAGE.parent
