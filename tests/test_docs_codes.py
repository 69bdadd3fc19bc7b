"""docs/health-gorilla.md knows every code, setting and parameter of the bots that it is about, and no others."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.bot.collection import load
from bot_layer.codes import advice
from bot_layer.errors import BotError
from bot_layer.health_gorilla.check import STEPS
from bot_layer.health_gorilla.rules.names import NameMatch
from tests import codes as codes_file

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "health-gorilla.md").read_text(encoding="utf-8")
STEMS = ("sync_practitioner", "create_staff_user", "sync_location", "check_health_gorilla")
# Calls whose first argument is a code, and those whose third one is.
FIRST = frozenset({"note", "warning", "Issue", "Reason", "_reason"})
THIRD = frozenset({"Finding"})
# Classes of codes that are put together while running.
MADE = frozenset(
    {f"{step}-works" for step in STEPS}
    | {f"would-be-{done}" for done in ("enrolled", "updated", "unchanged", "created")}
    | {"enrolled", "updated", "unchanged", "created"}
    | {found.value for found in NameMatch if found is not NameMatch.MATCH}
)
# Errors of these classes always have a code of their own.
NEVER_ALONE = frozenset({"error", "service-error", "review-needed"})
# Reported by the runtime around every bot, or by the command for many people.
AROUND = ("bot_layer/host/invoke.py", "bot_layer/cli/enroll.py", "bot_layer/health_gorilla/rules/roster.py")


def modules() -> list[Path]:
    """The files that a call of these bots can reach, by their imports."""
    waiting = [ROOT / "bots" / f"{stem}.py" for stem in STEMS] + [ROOT / name for name in AROUND]
    found: list[Path] = []
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.append(path)
        # The command loads bots by name, and the runtime is the same for all: their own imports lead elsewhere.
        waiting += imported(path)
    return found


def imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bot_layer"):
            base = ROOT.joinpath(*node.module.split("."))
            yield base.with_suffix(".py")
            yield from (base / f"{alias.name}.py" for alias in node.names)


def codes() -> set[str]:
    """Every code that the sources spell out, and those that are put together."""
    found = set(MADE)
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found |= {text for argument in _arguments(node) for text in _texts(argument, constants)}
    # The sync's own errors stand on its own page; which of them are loaded depends on the tests that ran before.
    common = {each.default_code for each in _below(BotError) if each.__module__ == BotError.__module__}
    return found | common - NEVER_ALONE


def _arguments(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "_log":
        return
    yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
    if name in FIRST and node.args:
        yield node.args[0]
    if name in THIRD and len(node.args) > 2:
        yield node.args[2]
    if name == "Row" and len(node.args) > 2 and isinstance(node.args[2], ast.Tuple):
        yield from node.args[2].elts


def _texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, constants)
        yield from _texts(node.orelse, constants)
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _below(error: type[BotError]) -> Iterator[type[BotError]]:
    yield error
    for each in error.__subclasses__():
        yield from _below(each)


def test_every_code_is_listed() -> None:
    """The page has every code that a bot can answer with."""
    assert sorted(code for code in codes() if f"`{code}`" not in PAGE) == []


def test_no_code_is_listed_that_nobody_says() -> None:
    """The first column of each table of codes has only codes that the sources know."""
    tables = re.findall(r"^\| code \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    listed = {
        code for table in tables for row in table.splitlines() for code in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    assert len(listed) > 80
    assert sorted(listed - codes()) == []


@pytest.mark.parametrize("stem", STEMS)
def test_every_setting_and_parameter_is_listed(stem: str) -> None:
    """The page has every setting and parameter of a bot."""
    settings = [setting.name for setting in load().named(stem).bot.settings]
    operation = json.loads((ROOT / "operation_definitions" / f"{stem}.json").read_text(encoding="utf-8"))
    names = [parameter["name"] for parameter in operation["parameter"] if parameter["use"] == "in"]
    assert [name for name in settings + names if f"`{name}`" not in PAGE] == []
    assert f"`${operation['code']}`" in PAGE


def test_the_status_page_explains_codes_as_the_docs_do() -> None:
    """``python -m tests.codes`` updates the file; a code of the host itself comes before one of the same name."""
    assert json.loads(codes_file.FILE.read_text(encoding="utf-8")) == codes_file.explained(), (
        "run: python -m tests.codes"
    )
    assert advice("refused", "npi-missing").startswith("There is no NPI. Add the identifier")
    assert advice("done", "npi-missing") == "It succeeded."
    assert advice("dead", "of-somebody-elses-bot").endswith("Fix the cause, then retry it.")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_row_of_a_page_belongs_to_a_table(page: str) -> None:
    """A row after an empty line is shown as plain text, unless it is the head of a table."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    first_rows = re.findall(r"(?<!\|)\n(\|.*)\n(.*)", text)
    assert [row for row, below in first_rows if not re.fullmatch(r"\|[-|]+", below)] == []
