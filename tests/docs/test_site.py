"""The documentation site: it builds, its links lead somewhere, and its reference is complete."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import penstock
from config.settings import WorkerSettings
from docs.site import classes
from docs.site.build import SITE, build, run_zensical
from docs.site.commands_page import commands
from docs.site.links import Link, rewritten
from docs.site.pages import ROOT, all_pages, written_pages
from docs.site.reference_page import INTERNAL, public_classes
from penstock.settings import variable_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in strict mode."""
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / SITE


def test_the_site_builds_without_a_broken_link_or_anchor(site: Path) -> None:
    """The build is strict: it fails for a page, a file or an anchor that does not exist."""
    assert (site / "index.html").is_file()
    assert (site / "reference" / "settings" / "index.html").is_file()


def test_a_page_loads_nothing_from_another_host(site: Path) -> None:
    """The theme would fetch fonts, and its library for diagrams when a page has one."""
    loads = re.compile(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|class="mermaid"')
    styles = re.compile(r'<link(?=[^>]+rel="(?:stylesheet|preconnect)")[^>]+href="(?:https?:)?//')
    foreign = [
        page.relative_to(site)
        for page in site.rglob("*.html")
        for text in [page.read_text(encoding="utf-8")]
        if loads.search(text) or styles.search(text)
    ]
    assert foreign == []


def entries(navigation: list[dict[str, Any]]) -> Iterator[str]:
    """The pages in the navigation, those of its sections included."""
    for entry in navigation:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else entries(value)


def test_the_navigation_has_every_page_once_and_no_other() -> None:
    """The strict build does not see an entry that leads nowhere."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = [page for page in all_pages() if not page.startswith("source/")]
    assert sorted(entries(project["nav"])) == sorted(pages)


def test_the_pages_name_only_settings_that_exist() -> None:
    """A renamed setting is renamed in every page."""
    known = {variable_of(WorkerSettings, field) for field in WorkerSettings.model_fields}
    known |= {"PENSTOCK_REDIS_SERVER"}  # of the tests' private Redis
    for path in written_pages():
        named = set(re.findall(r"PENSTOCK_[A-Z_]+[A-Z]", (ROOT / path).read_text(encoding="utf-8")))
        assert (path, named - known) == (path, set())


def test_the_settings_page_has_every_setting_with_its_description() -> None:
    page = all_pages()["reference/settings.md"]
    for name, field in WorkerSettings.model_fields.items():
        assert f"### {variable_of(WorkerSettings, name)}\n\n{field.description}\n" in page


def test_the_commands_page_has_every_command() -> None:
    page = all_pages()["reference/commands.md"]
    paths = [context.command_path for context in commands()]
    assert {"penstock stream", "penstock batch submit"} <= {*paths}
    assert [path for path in paths if f"# {path}\n" not in page] == []


def test_the_reference_has_every_public_class_and_method() -> None:
    page = all_pages()["reference/api.md"]
    shown = public_classes().values()
    assert {getattr(penstock, name) for name in penstock.__all__} <= {*shown}
    for kind in shown:
        for member in classes.members_of(kind):
            assert (f"{{ #{kind.__name__}.{member.name} }}" in page) != (member.name in INTERNAL)


def test_no_public_method_of_the_reference_is_undocumented() -> None:
    """What has no docstring is left out of the reference."""
    silent = [
        f"{kind.__name__}.{name}"
        for kind in public_classes().values()
        for name, member in vars(kind).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
        if not member.__doc__
    ]
    assert silent == []


def test_names_kept_out_of_the_reference_exist() -> None:
    members = {each.name for kind in public_classes().values() for each in classes.members_of(kind)}
    assert members >= INTERNAL


def test_an_example_in_a_docstring_is_a_block_of_code() -> None:
    docstring = "Send it, as in::\n\n    client = Client()\n    client.close()\n\nRaises nothing."
    assert classes.in_markdown(docstring) == (
        "Send it, as in:\n\n```python\nclient = Client()\nclient.close()\n```\n\nRaises nothing."
    )


def test_a_link_is_rewritten_outside_code_only() -> None:
    text = (
        "[a](../b.py#L1) `[a](../b.py)` [c](#d) [e](https://f)\n```\n[a](../b.py)\n```\n[a](g.md)"
    )
    found: list[Link] = []

    def target_of(link: Link) -> str:
        found.append(link)
        return "new"

    result = rewritten(PurePosixPath("docs/page.md"), text, target_of)
    assert result == (
        "[a](new) `[a](../b.py)` [c](#d) [e](https://f)\n```\n[a](../b.py)\n```\n[a](new)"
    )
    assert [(str(link.path), link.fragment, link.line) for link in found] == [
        ("b.py", "#L1", 1),
        ("docs/g.md", "", 5),
    ]


def test_a_broken_anchor_fails_the_build(tmp_path: Path) -> None:
    """The strict mode of the tool sees what it is meant to see."""
    (tmp_path / "zensical.toml").write_text(
        '[project]\nsite_name = "x"\ndocs_dir = "pages"\n', encoding="utf-8"
    )
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("# A\n\n[a](#nowhere)\n", encoding="utf-8")
    built = run_zensical(tmp_path)
    assert built.returncode != 0
    assert "anchor does not exist" in built.stdout + built.stderr
