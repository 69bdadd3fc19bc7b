"""The records of what the bots did, and the commands that read them."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from bot_layer.cli.main import build
from bot_layer.host import history as records
from bot_layer.host import storage
from bot_layer.host.history import OPERATION, Entry, History
from bot_layer.host.rules.inbox import LATER_RUN
from tests.host.test_inbox import Script, running
from tests.host.world import TokenServer, bot_resource, envelope, hosted

DAY = 86_400.0


def entry(number: int, at: float, state: str = "done", ms: float = 1.0, bot: str = "a") -> Entry:
    return Entry(f"id{number:014d}", at, bot, OPERATION, state, "" if state == "done" else f"code-{state}", "act", ms)


def test_figures_and_days_are_counted_by_bot(tmp_path: Path) -> None:
    """Calls, refusals, failures, median, slowest and last; a record of the same id counts once."""
    for made in (History(), History(f"sqlite:///{tmp_path / 'h.sqlite'}")):
        states = ["done", "done", "refused", "failed", "dead"]
        for number, state in enumerate(states):
            for _ in "twice":
                made.add(entry(number, 10 * DAY + number, state, ms=10.0 * number))
        made.add(entry(9, 9 * DAY, bot="b"))
        made.add(Entry("health-1", 10 * DAY, "practice", records.HEALTH, "failed"))
        for number in range(3):
            made.add(Entry(f"health-a-{number}", 10 * DAY, "a", records.HEALTH, "failed"))  # a practice of that name
        made.flush()
        found = made.figures(0)
        assert set(found) == {"a", "b"}, "a practice's health is no run"
        assert found["a"] == records.Figures(5, 1, 2, 20.0, 40.0, 10 * DAY + 4)
        days = made.days(records.RUNS, [9 * DAY, 10 * DAY])
        assert [day.total() for day in days["a"]] == [0, 5]
        assert [day.total() for day in days["b"]] == [1, 0]
        made.close()


def test_a_caller_does_not_wait_until_a_locked_database_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is queued at once, and written when the database is open."""
    opening, free, opened = threading.Event(), threading.Event(), storage.open_engine

    def slow(*given: Any, **more: Any) -> sa.Engine:
        opening.set()
        assert free.wait(240)
        return opened(*given, **more)

    monkeypatch.setattr(storage, "open_engine", slow)
    made = History(f"sqlite:///{tmp_path / 'h.sqlite'}")
    made.add(entry(1, 0.0))
    assert opening.wait(240)
    caller = threading.Thread(target=made.add, args=(entry(2, 0.0),), daemon=True)
    caller.start()
    caller.join(240)
    waits = caller.is_alive()
    free.set()
    assert not waits
    made.flush()
    assert len(list(made.entries(kind=OPERATION))) == 2
    made.close()


def test_a_recording_is_stored_encrypted(tmp_path: Path) -> None:
    """It is read with the same key only."""
    url = f"sqlite:///{tmp_path / 'h.sqlite'}"
    made = History(url, "k" * 32)
    made.keep("run-1", 1.0, {"event": {"name": "Unseen"}})
    made.flush()
    assert made.recording("run-1") == {"event": {"name": "Unseen"}}
    assert History(url, "j" * 32).recording("run-1") is None
    made.close()
    assert b"Unseen" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_old_records_are_deleted() -> None:
    """After fifteen days."""
    made = History()
    made.add(entry(1, 0.0))
    made.add(entry(2, 10 * DAY))
    made.flush()
    made.sweep(16 * DAY)
    assert [each.id for each in made.entries(kind=OPERATION)] == [entry(2, 0).id]


def test_text_that_is_not_a_code_is_not_stored() -> None:
    """A bot may call anything its action."""
    assert records.word("not-a-person") == "not-a-person"
    assert [records.word(each) for each in ("John Doe", "Ünseen", None, 7, "x" * 65)] == [""] * 5


def test_the_command_counts_and_lists_operations(tmp_path: Path) -> None:
    """``runs stats`` and ``list`` print text, CSV and JSON; the environment alone names the database."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    with running(tmp_path, Script()):
        pass  # a host was there
    made = History(url)
    made.add(entry(1, 4_000_000_000.0, "failed", ms=12.4))
    made.close()

    def run(*words: str) -> str:
        result = CliRunner().invoke(build(["runs"]), ["runs", *words], env={"BOT_HOST_DATABASE_URL": url})
        assert result.exit_code == 0, result.output
        return result.output

    (row,) = csv.DictReader(io.StringIO(run("stats", "--csv")))
    assert (row["bot"], row["calls"], row["failed"], row["slowestMs"]) == ("a", "1", "1", "12")
    assert json.loads(run("stats", "--json"))["failed"] == 1
    assert run("stats").splitlines()[0].split()[:2] == ["bot", "calls"]
    (listed,) = csv.DictReader(io.StringIO(run("list", "--csv", "--state", "failed")))
    assert (listed["kind"], listed["code"], listed["id"]) == ("operation", "code-failed", entry(1, 0).id)
    assert json.loads(run("show", "id00"))["action"] == "act", "the first letters are enough"


def test_a_command_creates_no_inbox(tmp_path: Path) -> None:
    """It says how to name the right one."""
    file = tmp_path / "nothing.sqlite"
    result = CliRunner().invoke(build(["runs"]), ["runs", "list"], env={"BOT_HOST_DATABASE_URL": f"sqlite:///{file}"})
    assert (result.exit_code, "BOT_HOST_DATABASE_URL" in result.output, file.exists()) == (2, True, False)


def test_a_call_with_the_hosts_own_login_is_noted_and_a_run_of_the_inbox_is_not() -> None:
    """A person who tries a bot often has only the host's login.

    The inbox records its own runs, also through Medplum.
    """
    medplum, made = TokenServer(), History()
    medplum.login("token", bot_resource("b-1", "test/echo"))
    own = {"requester": {"reference": "ClientApplication/own"}}
    patient = {"resourceType": "Patient", "id": "p"}
    with medplum.server, hosted(medplum, history=made, environ={"MEDPLUM_CLIENT_ID": "own"}) as (client, _):
        client.post("/bot-b-1", json=envelope(medplum, "token", patient, **own, headers={LATER_RUN: "1"}))
        made.flush()
        assert list(made.entries(kind=OPERATION)) == []
        client.post("/bot-b-1", json=envelope(medplum, "token", patient, **own))
        made.flush()
        assert len(list(made.entries(kind=OPERATION))) == 1
