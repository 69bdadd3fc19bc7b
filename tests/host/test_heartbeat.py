"""The heartbeat of a host: who runs alone, what is taken over at once, and what a host leaves when it ends."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos import DBOS

from bot_layer.host import storage, takeover
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.heartbeat import DBOS_RUNS, Heartbeat, new_host_id
from bot_layer.host.process_lock import Presence
from bot_layer.host.runs import Runs, open_runs
from tests import processes
from tests.host.process import until
from tests.host.test_inbox import AT, BUSY, NOW, Script, Trusting, changed, ended

LONG = 3600.0


@contextmanager
def serving(
    url: str, script: Script, *, first_pause: float = 0.01, limit: float = LONG, polling: float = 0.02
) -> Iterator[tuple[Inbox, Runs]]:
    """A host's inbox on a database; each has a new name."""
    settings = InboxSettings(url, key="k", first_pause=first_pause, polling=polling, takeover_seconds=limit)
    inbox = Inbox(script.bots, settings, environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        with open_runs(url, "k") as runs:
            yield inbox, runs
    finally:
        inbox.close(grace=0)


def table(url: str) -> dict[str, bool]:
    """The hosts in the database, and whether each has signed off."""
    engine = storage.open_engine(url, takeover.TABLE)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, gone FROM bot_hosts")).all()
    engine.dispose()
    return {row.id: bool(row.gone) for row in rows}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'inbox.sqlite'}"


def test_the_first_host_has_the_database_to_itself(tmp_path: Path) -> None:
    """The first process to open a file is alone; no later process is while another one still has the file open."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    first, second = Presence(url), Presence(url)
    assert (first.alone, second.alone) == (True, False)
    first.close()
    third = Presence(url)
    assert third.alone is False
    second.close()
    third.close()
    last = Presence(url)
    assert last.alone is True
    last.close()


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://postgres@/inbox"])
def test_without_a_database_file_no_host_assumes_that_it_is_alone(url: str) -> None:
    """If others can reach the database over a network, a host cannot know that it is alone."""
    assert Presence(url).alone is False


def test_a_killed_process_has_ended(tmp_path: Path) -> None:
    """After SIGKILL, the next process is alone."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    hold = (
        "import sys; from bot_layer.host.process_lock import Presence; here = Presence(sys.argv[1]); "
        "print(here.alone, flush=True); sys.stdin.read()"
    )
    with processes.start(
        [sys.executable, "-c", hold, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert Presence(url).alone is False
        process.send_signal(signal.SIGKILL)
        process.wait(240)
    assert Presence(url).alone is True


def test_every_process_has_a_name_of_its_own() -> None:
    """Two hosts never share a name, even in one process."""
    assert new_host_id() != new_host_id()
    assert InboxSettings("sqlite://").host_id != InboxSettings("sqlite://").host_id


def test_a_paused_run_is_continued_by_the_next_host(url: str) -> None:
    """A host that ends during a run's pause does not wait; the next host resumes the run at once from the same step."""
    script = Script(BUSY)
    with serving(url, script, first_pause=1.0) as (inbox, _):
        event = inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        assert event is not None
        until(lambda: [step["function_name"] for step in DBOS.list_workflow_steps(event)] == ["attempt", "pause"])
    assert list(table(url).values()) == [True]
    with serving(url, script) as (_, runs):
        (run,) = ended(runs, 1)
        assert len(table(url)) == 1
    assert (run.state, run.attempts, len(script.seen)) == ("done", 2, 2)


def test_a_run_that_was_claimed_and_never_begun_is_resumed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the database fails while a host claims a run, the run is not left running for ever."""
    script, is_sqlite = Script(), url.startswith("sqlite")
    with serving(url, script, limit=1.0, polling=LONG) as (inbox, runs):
        event = inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        assert event is not None and runs.one(event).state == "waiting"
        table = sa.table(
            "workflow_status", *map(sa.column, ("status", "executor_id")), schema=None if is_sqlite else "dbos"
        )
        engine = storage.open_engine(url)
        with engine.begin() as connection:
            connection.execute(table.update().values(status="PENDING", executor_id=inbox.settings.host_id))
        engine.dispose()
        until(lambda: "claimed but not begun" in caplog.text and runs.one(event).state == "waiting")
    assert script.seen == []


def test_an_attempt_that_is_still_made_is_not_given_away(url: str) -> None:
    """A host whose grace period ends while a bot works does not sign off: its runs wait until it counts as silent."""
    gate = threading.Event()
    script = Script(gate)
    with serving(url, script) as (inbox, _):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        script.wait_for(1)
    assert list(table(url).values()) == [False]
    gate.set()


def test_a_host_that_ends_takes_nothing_over(url: str) -> None:
    """While it shuts down, a host only sends heartbeats."""
    with serving(url, Script()):
        heartbeat = Heartbeat(url, "ending", limit=60)
        heartbeat.start()
        takeover.Membership(url, "dead", limit=60, work=DBOS_RUNS).beat(datetime.now(UTC))
        heartbeat.retire()
        assert heartbeat.beat(datetime.now(UTC) + timedelta(seconds=50)) == []
        assert heartbeat.beat(datetime.now(UTC) + timedelta(seconds=100)) == []
        heartbeat.stop(at_rest=True)
        assert {name: gone for name, gone in table(url).items() if name in ("dead", "ending")} == {
            "dead": False,
            "ending": True,
        }


def test_heartbeats_continue_after_a_failure_of_the_database(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the database is logged without its text, and the heartbeat is tried again."""
    caplog.set_level(logging.WARNING)
    with serving(url, Script(), limit=1.0):
        engine = storage.open_engine(url, takeover.TABLE)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE bot_hosts"))
        until(lambda: "No heartbeat: " in caplog.text)
        assert "bot_hosts" not in caplog.text
        engine.dispose()
        until(lambda: len(table(url)) == 1)
