"""docs/deploy.md: each promise of the security section names its test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_the_docs_name_exists() -> None:
    """If a named test is renamed or deleted, the docs make a claim without proof."""
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert len(named) > 20
    assert sorted(name for name in named if f"def {name}(" not in sources) == []


def _security() -> str:
    return (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("\n# Security\n")[2]


def test_each_promise_of_the_security_section_names_its_test() -> None:
    """Each row of its tables, each item of its lists, and each paragraph."""
    blocks = [block for block in re.split(r"\n\n+|\n(?=[|*] )", _security()) if block.strip()]
    explaining = ("```json", "**What is sent where**", "| from |", "| check |", "| where |", "**What is stored.**")
    unproven = [
        block.strip()[:80]
        for block in blocks
        if not re.search(r"`test_\w+`", block)
        and not block.strip().startswith(explaining)
        and not block.rstrip().endswith(":")  # introduces a list or a table
        and not re.fullmatch(r"[|:-]+", block.strip())
    ]
    assert unproven == []


def test_the_tables_of_the_inbox_are_documented() -> None:
    """Everything that is stored is in the table."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bot_layer" / "host").rglob("*.py"))
    tables = set(re.findall(r'sa\.Table\(\s*"(\w+)"', sources))
    assert len(tables) > 5
    assert sorted(table for table in tables if f"`{table}`" not in _security()) == []


def test_ci_audits_the_libraries() -> None:
    """By the locked versions; if the audit can't run, the job says so."""
    run, audit = ((ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("run", "audit"))
    assert ".ci/audit" in run.splitlines()
    assert "pip-audit --disable-pip --require-hashes" in audit
    assert "-r requirements-dev.lock" in audit
    assert "did not run" in audit
