"""The inbox's database when it is locked, damaged or away."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot_layer.errors import ConfigError
from bot_layer.host import storage
from bot_layer.host.rules import inbox as rules
from tests.host.process import until
from tests.host.test_inbox import AT, NOW, Script, changed, ended, running


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A database that another program holds, as a backup does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def test_while_the_database_is_locked_events_run_at_once_and_the_host_is_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that can't be stored in time runs at once, and once; the host says that it takes none."""
    monkeypatch.setattr(storage, "STORE_SECONDS", 0.2)
    script = Script()
    with running(tmp_path, script) as (inbox, runs), caplog.at_level(logging.ERROR):
        with locked(tmp_path / "inbox.sqlite"):
            assert inbox.take(script.handler, changed("a", "1"), AT, now=NOW) is None
            inbox.ended_at_once(script.handler, changed("a", "1"), AT, None, now=NOW)
            until(lambda: not inbox.ready)
            assert "is locked by another program" in inbox.problem
            assert inbox.take(script.handler, changed("b", "1"), AT, now=NOW) is None
        until(lambda: inbox.ready)
        monkeypatch.undo()
        assert inbox.take(script.handler, changed("c", "1"), AT, now=NOW) is not None
        found = ended(runs, 2)  # DBOS stored the first one after all
    assert {(run.resource, run.code) for run in found} == {("Patient/a", "ran-at-once"), ("Patient/c", "")}
    assert script.seen == ["c/1"]
    assert "not stored and runs at once" in caplog.text


def test_an_event_that_is_delivered_twice_while_nothing_is_stored_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two Subscriptions may report one version, and both deliveries wait for the database at the same time."""
    script, both = Script(), threading.Barrier(2, timeout=60)

    def refuse(*_: object) -> None:
        both.wait()
        raise storage.NotStored

    with running(tmp_path, script) as (inbox, _runs), ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(inbox, "enqueue", refuse)
        events = [changed("a", "1"), changed("a", "1")]
        found = list(pool.map(lambda event: inbox.take(script.handler, event, AT, now=NOW), events))
    assert found.count(None) == 1


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"this is no database at all, and never was one" * 100, "is damaged"), (None, "check that its folder exists")],
)
def test_a_file_that_can_not_be_used_is_one_sentence(tmp_path: Path, content: bytes | None, word: str) -> None:
    """What to do, without a traceback."""
    path = tmp_path / "inbox.sqlite" if content else tmp_path / "missing" / "inbox.sqlite"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=word) as found:
        storage.require_usable(f"sqlite:///{path}")
    assert found.value.code == "inbox-unusable"


def test_a_database_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    """An unreachable PostgreSQL is named by its setting."""
    with pytest.raises(ConfigError, match="BOT_HOST_DATABASE_URL"):
        storage.require_usable(f"postgresql://postgres@/inbox?host={tmp_path}")


def test_a_database_that_does_not_exist_yet_is_no_fault(postgres_url: str) -> None:
    """DBOS makes it."""
    storage.require_usable(postgres_url)
    storage.require_usable(postgres_url.replace("/test_", "/missing_"))


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Others may read neither a new file nor one of an earlier release."""
    path = tmp_path / "inbox.sqlite"
    for _ in range(2):
        storage.require_usable(f"sqlite:///{path}")
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)


def test_a_pause_is_a_duration_of_ten_minutes_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that a wrong clock produced does not make a run wait until then."""
    waited: list[float | None] = []
    with running(tmp_path, Script()) as (inbox, _):

        class Closing(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                waited.append(timeout)
                return False

        monkeypatch.setattr(inbox, "_closing", Closing())
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).timestamp()
        inbox.pause(tomorrow)
        inbox.pause(time.time() - 5)
    assert waited == [rules.LONGEST_PAUSE, 0.0]
