"""How far long work is, in words."""

from __future__ import annotations

import pytest

from bot_layer.cli.progress import counted


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
    """What nobody knows is left out; what an estimate fell short of, too."""
    assert counted(done, total, is_exact=is_exact) == said
