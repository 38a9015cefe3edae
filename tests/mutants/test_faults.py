"""The faults that `make mutants` plants, and the tests that it runs for each."""

import ast
from pathlib import Path

from tests.mutants.lua_faults import lua_faults
from tests.mutants.modules import core_modules, mirrored_tests
from tests.mutants.python_faults import Fault, python_faults

ROOT = Path(__file__).resolve().parents[2]

PYTHON = '''"""Docstring."""
from typing import Final
LIMIT: Final[int] = 3
@decorated(slots=True)
def f(a: int = 1) -> "list[int]":
    """Say 3."""
    logger.info("%s", a + 1)
    if a < LIMIT and not a:
        g(f"{a + 1}")
    while a.ready:
        a.n -= 2
        a.b, c = c, True
    return a is None
'''

LUA = """-- Returns 1 + 1.
local n = unpack(KEYS, 1, 2)
if n >= 5 and not x then  -- and not y
  fields[#fields + 1] = 'a == b'
  redis.call('SET', n,
    math.max(1, n - 2))
end
return n
"""


def found(faults: list[Fault]) -> list[tuple[int, str]]:
    return [(fault.line, fault.what) for fault in faults]


def test_python_gets_each_kind_of_fault_where_a_test_could_notice_it() -> None:
    assert found(python_faults(PYTHON)) == [
        (3, "3 → 4"),
        (5, "1 → 2"),
        (8, "dropped: if a < LIMIT and (not a)"),
        (8, "And → Or"),
        (8, "Lt → LtE"),
        (8, "not removed"),
        (9, "dropped: g(f'{a + 1}')"),
        (10, "not added: a.ready"),
        (11, "dropped: a.n -= 2"),
        (11, "Sub → Add"),
        (11, "2 → 3"),
        (12, "dropped: a.b, c = (c, True)"),
        (12, "True → False"),
        (13, "dropped: return a is None"),
        (13, "Is → IsNot"),
    ]


def test_each_python_fault_changes_one_place_of_the_module() -> None:
    whole = ast.unparse(ast.parse(PYTHON))
    sources = [fault.source for fault in python_faults(PYTHON)]
    assert len({whole, *sources}) == len(sources) + 1
    added = "    while not a.ready:\n"
    assert [source for source in sources if added in source] == [
        whole.replace("    while a.ready:\n", added)
    ]
    for source in sources:
        ast.parse(source)


def test_a_script_gets_each_kind_of_fault_where_a_test_could_notice_it() -> None:
    assert found(lua_faults(LUA)) == [
        (3, ">= → >: if n >= 5 and not x then"),
        (3, "and → or: if n >= 5 and not x then"),
        (3, "not → nothing: if n >= 5 and not x then"),
        (3, "5 → 6: if n >= 5 and not x then"),
        (4, "dropped: fields[#fields + 1] = 'a == b'"),
        (5, "dropped: redis.call('SET', n,"),
        (6, "- → +: math.max(1, n - 2))"),
        (6, "math.max → math.min: math.max(1, n - 2))"),
        (6, "1 → 2: math.max(1, n - 2))"),
        (6, "2 → 3: math.max(1, n - 2))"),
        (8, "dropped: return n"),
    ]


def test_a_fault_in_a_script_changes_its_own_lines_only() -> None:
    faults = {fault.what: fault.source.split("\n") for fault in lua_faults(LUA)}
    lines = LUA.split("\n")
    longer = faults["dropped: redis.call('SET', n,"]
    assert longer == [*lines[:4], "", "", *lines[6:]]
    flipped = faults[">= → >: if n >= 5 and not x then"]
    assert flipped == [*lines[:2], "if n > 5 and not x then  -- and not y", *lines[3:]]


def test_every_fault_of_a_module_is_python_again() -> None:
    source = (ROOT / "tasks/streams/publish/publisher.py").read_text(encoding="utf-8")
    faults = python_faults(source)
    assert len(faults) > 50
    for fault in faults:
        ast.parse(fault.source)


def test_the_core_modules_are_python_and_scripts() -> None:
    modules = core_modules(ROOT)
    assert {"tasks/streams/publish/publisher.py", "penstock/store/lua/write.lua"} < set(modules)
    assert not [module for module in modules if module.endswith("__init__.py")]


def test_a_module_is_tested_by_the_tests_named_after_it_and_then_by_their_neighbours() -> None:
    folder = "tests/unit/tasks/streams"
    names = ("test_attempt.py", "test_attempt_events.py", "test_relay.py", "test_usage.py")
    tests = [f"{folder}/{name}" for name in names]
    own, near = mirrored_tests("tasks/streams/attempt.py", tests, ROOT)
    assert own == tests[:2]
    assert near == tests[2:3]  # test_usage.py does not import it
    assert mirrored_tests("tasks/streams/attempt.py", [], ROOT) == []


def test_a_script_is_tested_where_the_functions_that_call_it_are_tested() -> None:
    store = "tests/contract/penstock/store"
    tests = [f"{store}/test_log_limit.py", f"{store}/test_write_script.py"]
    limiter = "tests/contract/tasks/streams/test_rate_limiter.py"
    assert mirrored_tests("penstock/store/lua/write.lua", tests, ROOT) == [tests[1:], tests[:1]]
    own, _ = mirrored_tests("penstock/store/lua/rate_limit_report.lua", [*tests, limiter], ROOT)
    assert own == [limiter]
