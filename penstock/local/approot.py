"""Where the application's three folders lie: in the checkout, or carried inside the wheel."""

from pathlib import Path


def app_root() -> Path:
    """The folder that must be on ``PYTHONPATH`` for ``celery -A workers.app``."""
    here = Path(__file__).resolve().parent
    carried = here / "_app"
    return carried if carried.is_dir() else here.parent
