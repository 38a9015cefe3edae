"""Builds the site: writes the pages, and has Zensical convert them to HTML."""

import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.pages import ROOT, all_pages

#: Relative to the folder of the build, as in `zensical.toml`.
PAGES = "build/pages"
SITE = "site"
STYLE = "style.css"


def write_pages(folder: Path) -> None:
    """Write the pages below ``folder``; unchanged pages are not touched."""
    place = folder / PAGES
    pages = all_pages()
    for old in set(place.rglob("*.md")) - {place / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        page = place / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
    shutil.copy(Path(__file__).with_name(STYLE), place)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Write the pages below ``folder`` and build the site."""
    write_pages(folder)
    if folder != ROOT:
        shutil.copy(ROOT / "zensical.toml", folder)
    return run_zensical(folder)


def run_zensical(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the pages below ``folder``; the process fails on a broken link or anchor."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
