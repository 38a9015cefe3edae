"""The code blocks of the documentation, and the shell commands in it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.site.pages import ROOT, written_pages

_BLOCK = re.compile(r"^( *)```([\w-]+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`(penstock [^`]+)`")
_ENDS = {";", "&&", "||", "|", "&", "(", ")", "\n"}  # of a command within a line
SHELL = ("console", "sh")


@dataclass(frozen=True, slots=True)
class Block:
    """One code block of one page."""

    page: Path
    line: int  #: of its first line of code
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """The commands of a shell block: a session's lines after ``$``, without the output."""
        if self.language == "sh":
            return self.text
        lines = self.text.splitlines()
        return "\n".join(line[2:] for line in lines if line.startswith("$ "))


def pages() -> list[Path]:
    """Return every page that is written by hand."""
    return [ROOT / path for path in written_pages()]


def blocks(*languages: str) -> list[Block]:
    """Return the code blocks in these languages, page by page."""
    return [block for page in pages() for block in _of_page(page) if block.language in languages]


def _of_page(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        indent, language, code = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        yield Block(page, line, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE))


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """Return where a program is called, in shell blocks and in running text, and its arguments."""
    for block in blocks(*SHELL):
        for words in simple_commands(block.script):
            if words[0] == program:
                yield str(block), words[1:]
    for page in pages():
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            for span in _SPAN.findall(line):
                words = shlex.split(span)
                if words[0] == program:
                    yield f"{page.relative_to(ROOT)}:{number}", [w for w in words[1:] if w != "…"]


def simple_commands(script: str) -> Iterator[list[str]]:
    """Return the words of every simple command, those within ``$(…)`` and pipes included."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.replace("$(", " ( "), posix=True, punctuation_chars=True)
        lexer.wordchars += "%$@{}:,+"
        words: list[str] = []
        for token in [*lexer, "\n"]:
            if token in _ENDS or set(token) <= {"<", ">"}:
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"\w+=.*", token):
                words.append(token)
