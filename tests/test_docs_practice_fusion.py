"""docs/practice-fusion.md names every setting and every parameter; README names only tests that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
    """A code that the sync can end with stands in the table of what to do."""
    files = [
        *(ROOT / "bot_layer" / "bulk_sync").rglob("*.py"),
        ROOT / "bots" / "pf_bulk_sync.py",
    ]
    codes: set[str] = set()
    for each in files:
        text = each.read_text(encoding="utf-8")
        codes |= set(re.findall(r'(?:code|default_code) ?= ?"([a-z]+(?:-[a-z]+)+)"', text))
    assert codes <= set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGE))


def test_every_test_that_is_named_exists() -> None:
    """A yes in the table is shown by a test."""
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", README)
    assert len(named) > 15
    for file, name in named:
        text = (ROOT / (file or "tests/bulk_sync/test_named_faults.py")).read_text(encoding="utf-8")
        assert f"def {name}(" in text
