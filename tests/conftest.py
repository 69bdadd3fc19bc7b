"""Set-up that applies to every test."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from tests import postgres

# Laws are about values, never about time: a busy machine must not make one fail. That a law fails on a mutant is all
# that counts there: no smaller example is looked for.
_PHASES = tuple(phase for phase in Phase if phase is not Phase.shrink or "MUTANTS" not in os.environ)
settings.register_profile("laws", deadline=None, phases=_PHASES)
settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _no_handler_outlives_its_stream() -> None:
    """A command run in an earlier test may have left a log handler whose stream was closed with that test."""
    for logger in (logging.getLogger(), logging.getLogger("dbos")):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_command_keeps_the_process() -> Iterator[None]:
    """``serve`` replaces standard error and the hook for uncaught exceptions; a test restores both."""
    before = sys.stderr, sys.excepthook, threading.excepthook
    yield
    sys.stderr, sys.excepthook, threading.excepthook = before


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server, started when a test of this process first asks; BOT_TEST_POSTGRES has the URL of another."""
    given = os.environ.get("BOT_TEST_POSTGRES")
    if given:
        yield given
        return
    try:
        with postgres.server() as server:
            yield server.url
    except postgres.Unavailable as fault:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(fault))


@pytest.fixture
def own_postgres() -> Iterator[postgres.Server]:
    """A PostgreSQL server for one test, which may stop and start it."""
    try:
        with postgres.server() as server:
            yield server
    except postgres.Unavailable as fault:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(fault))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database for one test."""
    with postgres.database(postgres_server) as url:
        yield url
