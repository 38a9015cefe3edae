"""The operations guide names what exists."""

import re
from pathlib import Path

from config.settings import WorkerSettings
from penstock.settings import variable_of

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def test_every_setting_in_the_guide_exists() -> None:
    """A renamed setting has to be renamed in the guide as well."""
    named = set(re.findall(r"PENSTOCK_[A-Z_]+[A-Z]", GUIDE.read_text(encoding="utf-8")))
    known = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    assert named - known == set()
