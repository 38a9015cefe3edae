"""Small faults in Python source: flipped comparisons, dropped statements, changed constants. Pure.

Left alone is what no test should notice: annotations, decorators, docstrings, text, log lines.
"""

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

_OPPOSITES: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}
_DROPPED: Final = (
    ast.AugAssign,
    ast.Expr,
    ast.Raise,
    ast.Return,
    ast.Continue,
    ast.Break,
    ast.Delete,
)
_UNREAD: Final = frozenset({"annotation", "returns", "decorator_list"})


class Fault(NamedTuple):
    """A module with one fault."""

    line: int
    what: str
    source: str  #: of the whole module


class _Place(NamedTuple):
    """A node of the tree, and where its parent refers to it."""

    node: ast.AST
    parent: ast.AST
    field: str
    item: int | None  #: None: the field is not a list
    line: int
    in_function: bool

    def put(self, node: ast.AST) -> None:
        """Replace the node in its parent."""
        if self.item is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.item] = node


def python_faults(source: str) -> list[Fault]:
    """Return every fault for this source, in the order of its lines."""
    tree = ast.parse(source)
    found = []
    for place in list(_places(tree)):
        for what, node in _replacements(place):
            place.put(node)
            found.append(Fault(place.line, what, ast.unparse(ast.fix_missing_locations(tree))))
            place.put(place.node)
    return sorted(found, key=lambda fault: fault.line)


def _places(node: ast.AST, line: int = 0, *, in_function: bool = False) -> Iterator[_Place]:
    """Every node below ``node`` that may be changed."""
    in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for field, value in ast.iter_fields(node):
        if field in _UNREAD:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _is_unread(child):
                continue
            at = getattr(child, "lineno", line)
            where = index if isinstance(value, list) else None
            yield _Place(child, node, field, where, at, in_function)
            yield from _places(child, at, in_function=in_function)


def _is_unread(node: ast.AST) -> bool:
    """Whether no test should notice a change of the node: text, or a line of the log."""
    if isinstance(node, ast.JoinedStr):
        return True
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Constant):
        return True  # a docstring
    function = call.func if isinstance(call, ast.Call) else None
    return isinstance(function, ast.Attribute) and ast.unparse(function.value) == "logger"


def _replacements(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    """What the node can be replaced by."""
    node = place.node
    if type(node) in _OPPOSITES:
        other = _OPPOSITES[type(node)]
        yield f"{type(node).__name__} → {other.__name__}", other()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not removed", node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif place.in_function and _can_be_dropped(node):
        yield f"dropped: {ast.unparse(node).splitlines()[0]}", ast.Pass()
    elif isinstance(node, ast.If) and not node.orelse:
        yield f"dropped: if {ast.unparse(node.test)}", ast.Pass()
    if place.field == "test" and isinstance(node, ast.Name | ast.Attribute | ast.Call):
        yield f"not added: {ast.unparse(node)}", ast.UnaryOp(ast.Not(), node)


def _can_be_dropped(node: ast.AST) -> bool:
    """Whether the module would still work without this statement, if only by half.

    Without the assignment of a name it would not: each later use of the name is an error.
    """
    if isinstance(node, ast.Assign):
        return not any(isinstance(target, ast.Name) for target in node.targets)
    return isinstance(node, _DROPPED)


def _constants(value: object) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        yield f"{value} → {not value}", ast.Constant(not value)
    elif isinstance(value, int | float):
        yield f"{value} → {value + 1}", ast.Constant(value + 1)
