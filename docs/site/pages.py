"""The pages of the site: Markdown files, and pages generated from the code."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from docs.site import sources
from docs.site.commands_page import commands_page
from docs.site.links import Link, rewritten
from docs.site.reference_page import reference_page
from docs.site.settings_page import settings_page

ROOT = Path(__file__).resolve().parents[2]

#: Markdown outside ``docs/`` → its page. Those inside keep their names.
_OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "vulnerabilities.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
_GENERATED: Mapping[str, Callable[[], str]] = {
    "reference/api.md": reference_page,
    "reference/commands.md": commands_page,
    "reference/settings.md": settings_page,
}


class BrokenLink(Exception):
    """A page links to a file that the repository does not have."""


def written_pages(root: Path = ROOT) -> dict[PurePosixPath, str]:
    """Map each hand-written file of the repository to the name of its page."""
    found = {PurePosixPath(path): page for path, page in _OUTSIDE.items() if (root / path).exists()}
    for path in sorted((root / "docs").glob("*.md")):
        found[PurePosixPath("docs", path.name)] = path.name
    return found


def all_pages(root: Path = ROOT) -> dict[str, str]:
    """Return name → Markdown of every page of the site. Raises `BrokenLink`."""
    written = written_pages(root)
    pages = {name: make() for name, make in _GENERATED.items()}
    for path, name in written.items():

        def target_of(link: Link, name: str = name) -> str:
            if not (root / link.path).exists():
                raise BrokenLink(f"{link.source}:{link.line}: no {link.path}")
            target = written.get(link.path)
            if target is None:
                target = sources.page_name(link.path)
                pages[target] = sources.source_page(root, link.path)
            return f"{target}{link.fragment}"

        pages[name] = rewritten(path, (root / path).read_text(encoding="utf-8"), target_of)
    return pages
