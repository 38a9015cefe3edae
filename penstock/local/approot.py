"""Where the application's three folders lie: in the checkout, or carried inside the wheel."""

from pathlib import Path


def app_root() -> Path:
    """The folder that must be on ``PYTHONPATH`` for ``celery -A workers.app``."""
    package = Path(__file__).resolve().parent.parent
    carried = package / "_app"
    return carried if carried.is_dir() else package.parent
