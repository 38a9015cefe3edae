"""Reads the signatures, docstrings and comments in the source of a class."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

_LONG = 88  #: a longer signature has one parameter per line
_SPECIAL = ("__iter__", "__aiter__")
_EXAMPLE = re.compile(r"::\n\n((?:(?: {4}.*)?\n)+)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Member:
    """A method or a property."""

    name: str
    signature: str
    prose: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a dataclass, or a member of an enumeration."""

    name: str
    type: str  #: its annotation; of an enumeration's member, its value
    meaning: str  #: the ``#:`` comment beside it or above it


def members_of(kind: type) -> Iterator[Member]:
    """Return the documented methods and properties, including inherited ones of ours."""
    seen = set()
    for owner in kind.__mro__:
        if not owner.__module__.startswith("penstock"):
            continue
        for node in _body(owner):
            if not isinstance(node, Function) or node.name in seen:
                continue
            seen.add(node.name)
            prose = ast.get_docstring(node)
            if prose and (node.name in _SPECIAL or not node.name.startswith("_")):
                yield Member(node.name, _signature(node, owner), in_markdown(prose))


def constructor_of(kind: type) -> str:
    """Return the signature with which a class is called."""
    [node] = [node for node in _body(kind) if getattr(node, "name", "") == "__init__"]
    assert isinstance(node, ast.FunctionDef)
    return _call(kind.__name__, node, vars(kind)["__init__"], "")


def fields_of(kind: type) -> Iterator[Field]:
    """Return the fields in the order of the source."""
    lines = _source(kind).splitlines()
    for node in _body(kind):
        match node:
            case ast.AnnAssign(target=ast.Name(name), annotation=annotation):
                kind_or_value = _unquoted(annotation)
            case ast.Assign(targets=[ast.Name(name)], value=value):
                kind_or_value = ast.unparse(value)
            case _:
                continue
        if not name.startswith("_"):
            yield Field(name, kind_or_value, _comment(lines, node.lineno, node.end_lineno))


def in_markdown(docstring: str) -> str:
    """Return a docstring with each indented example after ``::`` as a block of code."""

    def fenced(match: re.Match[str]) -> str:
        return f":\n\n```python\n{textwrap.dedent(match[1]).strip()}\n```\n\n"

    return _EXAMPLE.sub(fenced, docstring + "\n").strip()


def _signature(node: Function, owner: type) -> str:
    returned = _unquoted(node.returns) if node.returns else ""
    function = vars(owner)[node.name]
    if isinstance(function, property):
        return f"{node.name}: {returned}"
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return _call(prefix + node.name, node, function, f" -> {returned}")


def _call(name: str, node: Function, function: Callable[..., object], end: str) -> str:
    parameters = list(_parameters(node, function))
    line = f"{name}({', '.join(parameters)}){end}"
    if len(line) <= _LONG:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in parameters), f"){end}"])


def _parameters(node: Function, function: Callable[..., object]) -> Iterator[str]:
    """Return every parameter except ``self``, with its annotation in the source."""
    written = {
        each.arg: _unquoted(each.annotation)
        for each in ast.walk(node.args)
        if isinstance(each, ast.arg) and each.annotation
    }
    signature = inspect.signature(getattr(function, "__func__", function))
    _, *parameters = signature.parameters.values()
    starred = False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not starred:
            yield "*"
        starred = starred or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        name = each.replace(annotation=each.empty, default=each.empty)  # with its stars
        default = "" if each.default is each.empty else f" = {each.default!r}"
        yield f"{name}: {written[each.name]}{default}"


def _unquoted(annotation: ast.AST) -> str:
    """Return the source of an annotation without the quotes of forward references."""
    source = ast.unparse(annotation)
    return source if "Literal" in source else source.replace("'", "")


def _comment(lines: list[str], first: int, last: int | None) -> str:
    beside = lines[(last or first) - 1].partition("#:")[2].strip()
    above: list[str] = []
    index = first - 2
    while not beside and lines[index].strip().startswith("#:"):
        above.insert(0, lines[index].strip().removeprefix("#:").strip())
        index -= 1
    return beside or " ".join(above)


@cache
def _source(kind: type) -> str:
    return textwrap.dedent(inspect.getsource(kind))


def _body(kind: type) -> list[ast.stmt]:
    [node] = ast.parse(_source(kind)).body
    assert isinstance(node, ast.ClassDef)
    return node.body
