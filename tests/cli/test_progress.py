"""How far long work is, in words."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bot_layer.cli.progress import bar, counted


@pytest.mark.parametrize(
    ("done", "total", "is_exact", "said"),
    [
        (136, None, False, "136"),
        (136, 400, False, "136 of about 400"),
        (3, 9, True, "3 of 9"),
        (401, 400, False, "401"),
    ],
)
def test_a_count_never_has_a_question_mark(done: int, total: int | None, is_exact: bool, said: str) -> None:
    """An unknown total is left out, and so is an estimate that was too low."""
    assert counted(done, total, is_exact=is_exact) == said


@pytest.mark.parametrize(
    ("terminal", "hidden", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_bar_is_for_a_terminal(terminal: bool, hidden: bool, shown: bool) -> None:
    """If the output is no terminal, or is JSON, no bar is written."""
    written = io.StringIO()
    with bar(Console(file=written, force_terminal=terminal, width=100), hidden=hidden) as progress:
        progress.advance(progress.add_task("Deploying", total=3), 2)
    assert ("2 of 3" in written.getvalue()) == shown


def test_a_bar_of_unknown_size_counts_alone() -> None:
    """As that of a search for missed changes."""
    written = io.StringIO()
    with bar(Console(file=written, force_terminal=True, width=100), is_exact=False) as progress:
        progress.advance(progress.add_task("Searching", total=None), 136)
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", written.getvalue())
    assert " 136 " in text and "?" not in text and "of" not in text
