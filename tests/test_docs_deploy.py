"""docs/deploy.md: each promise of the security section names its test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_the_docs_name_exists() -> None:
    """A renamed test, or one that is gone, would leave a promise without its proof."""
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert len(named) > 20
    assert sorted(name for name in named if f"def {name}(" not in sources) == []
