"""Locates the application's folders, in the checkout or inside the wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def app_root() -> Path:
    """Return the folder that ``celery -A workers.app`` needs on ``PYTHONPATH``."""
    bundled = _PACKAGE / "_app"
    return bundled if bundled.is_dir() else package_root()


def package_root() -> Path:
    """Return the folder from which ``import penstock`` finds this package."""
    return _PACKAGE.parent
