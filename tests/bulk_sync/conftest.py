"""Every scenario of the sync runs as the bot under its policy, and every second one as an administrator's command too.

The command takes the same ways with more rights; which tests also run as the command depends on their names alone.
"""

from __future__ import annotations

from zlib import crc32

import pytest

from tests.bulk_sync.world import run_as_bot

COMMAND, BOT = "command", "bot"
STARTERS = frozenset({"World", "small", "world"})  # a module that has one of them runs syncs


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "one_login: the test chooses by itself whether its syncs run as the bot")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The logins, for each test of a module that runs syncs."""
    if STARTERS & vars(metafunc.module).keys() and not metafunc.definition.get_closest_marker("one_login"):
        both = crc32(metafunc.function.__name__.encode()) % 2
        metafunc.parametrize("runs_as", [COMMAND, BOT] if both else [BOT], indirect=True)


@pytest.fixture(autouse=True)
def runs_as(request: pytest.FixtureRequest) -> str:
    """Whose login the syncs of this test have."""
    chosen = str(getattr(request, "param", COMMAND))
    run_as_bot(bot=chosen == BOT)
    return chosen
