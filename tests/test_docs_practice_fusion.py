"""docs/practice-fusion.md names every setting and every parameter; README names only tests that exist."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from bot_layer.bulk_sync.rules.export_errors import (
    MISSING_FILE,
    NO_ADDRESS,
    REFUSED_FILE,
    SHORT_FILE,
    UNREADABLE,
    UNREADABLE_DELETIONS,
)
from bot_layer.bulk_sync.rules.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "practice-fusion.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_explained() -> None:
    """And no other is."""
    assert set(re.findall(r"PF_[A-Z_]+[A-Z]", PAGE)) == {each.name for each in SETTINGS}


def test_every_parameter_is_explained() -> None:
    """Of the operation's input."""
    operation = json.loads((ROOT / "operation_definitions" / "pf_bulk_sync.json").read_text(encoding="utf-8"))
    taken = {each["name"] for each in operation["parameter"] if each["use"] == "in"}
    assert taken <= set(re.findall(r"`(\w+)`", PAGE))


def test_every_error_of_the_sync_has_its_line() -> None:
    """The table of what to do has every code that the sync can end with."""
    files = [
        *(ROOT / "bot_layer" / "bulk_sync").rglob("*.py"),
        ROOT / "bots" / "pf_bulk_sync.py",
    ]
    codes: set[str] = set()
    for each in files:
        text = each.read_text(encoding="utf-8")
        codes |= set(re.findall(r'(?:code|default_code) ?= ?"([a-z]+(?:-[a-z]+)+)"', text))
    assert codes <= set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGE))


def findings() -> set[str]:
    """The longest fixed part of each note that the sync can make."""
    found: set[str] = set()
    for path in (ROOT / "bot_layer" / "bulk_sync").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            named = {each.id for each in targets if isinstance(each, ast.Name)}
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and named & {"note", "notes", "unsought"}:
                found |= set(texts(node))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "noted":
                found |= {text for each in node.args for text in texts(each)}
    return found


def texts(node: ast.AST) -> Iterator[str]:
    """The longest fixed part of each sentence below a node."""
    inside = {id(part) for each in ast.walk(node) if isinstance(each, ast.JoinedStr) for part in ast.walk(each)}
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            fixed = (str(part.value) for part in each.values if isinstance(part, ast.Constant))
            yield max(fixed, key=len, default="").strip(" :;,()")
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in inside:
            yield each.value


def test_every_finding_has_its_line() -> None:
    """The table of findings has each note in its own words."""
    table = PAGE.partition("### Findings")[2].partition("\n### ")[0]
    sentences = {each for each in findings() if len(each) > 15}
    assert len(sentences) > 8
    assert sorted(each for each in sentences if each.partition(":")[0] not in table) == []


def test_every_reason_of_a_file_that_is_not_whole_has_its_line() -> None:
    """The reasons in not-exported."""
    reasons = (REFUSED_FILE, MISSING_FILE, SHORT_FILE, UNREADABLE, UNREADABLE_DELETIONS, NO_ADDRESS)
    assert [each for each in reasons if f"`{each}`" not in PAGE] == []


def test_every_test_that_is_named_exists() -> None:
    """A yes in the table is shown by a test."""
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", README)
    assert len(named) > 15
    for file, name in named:
        text = (ROOT / (file or "tests/bulk_sync/test_named_faults.py")).read_text(encoding="utf-8")
        assert f"def {name}(" in text
