"""Rules for every test module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
CLOCKS = {"time.time", "time.monotonic", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: bodies of functions and lambdas do not, their defaults do."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for each in (*child.decorator_list, *child.args.defaults):
                yield from _at_import(each)
        elif not isinstance(child, ast.Lambda):
            yield from _at_import(child)


def _clocks(source: str) -> list[int]:
    """The lines on which a module reads the clock when it is imported."""
    calls = (each for each in _at_import(ast.parse(source)) if isinstance(each, ast.Call))
    names = ((each.lineno, ast.unparse(each.func)) for each in calls)
    return [line for line, name in names if CLOCKS & {name, name.removeprefix("datetime.")}]


def test_no_time_is_computed_at_import() -> None:
    """Minutes may pass between the import and the test: such a time is a wrong one on a busy machine."""
    found = {str(path.relative_to(TESTS)): _clocks(path.read_text()) for path in TESTS.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_clock_at_import_is_found() -> None:
    """The check sees module constants, decorators and defaults, and passes over functions."""
    lines = (
        "import time, datetime",
        "A = {'x': int(time.time())}",
        "@mark(datetime.datetime.now())",
        "def f(x=datetime.now()):",
        "    return time.time()",
    )
    assert _clocks("\n".join(lines)) == [2, 3, 4]
