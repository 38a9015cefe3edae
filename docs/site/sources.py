"""Pages for files of the repository that other pages link to."""

import ast
from pathlib import Path, PurePosixPath

#: The language of a code block, by the file's suffix.
_LANGUAGES = {".lua": "lua", ".py": "python", ".toml": "toml", ".yml": "yaml"}
_HIDDEN = ("__pycache__", ".")


def page_name(path: PurePosixPath) -> str:
    """Return the path on the site of the page for a file or folder of the repository."""
    return f"source/{path}.md"


def source_page(root: Path, path: PurePosixPath) -> str:
    """Return the page for a file, with its text, or for a folder, with its content."""
    place = root / path
    content = _listing(place) if place.is_dir() else _code(place)
    return f"# {path}\n\n{content}\n"


def _code(file: Path) -> str:
    text = file.read_text(encoding="utf-8").rstrip()
    return f"````{_LANGUAGES.get(file.suffix, 'text')}\n{text}\n````"


def _listing(folder: Path) -> str:
    rows = ["| name | content |", "|---|---|"]
    for child in sorted(folder.iterdir(), key=lambda child: (child.is_file(), child.name)):
        if not child.name.startswith(_HIDDEN):
            slash = "/" if child.is_dir() else ""
            rows.append(f"| `{child.name}{slash}` | {_summary(child)} |")
    return "\n".join(rows)


def _summary(path: Path) -> str:
    """Return the first line of a file's or package's docstring, or leading comment."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    first = text.partition("\n")[0]
    return first.removeprefix("--").strip() if file.suffix == ".lua" else ""
