"""The inbox: each event is accepted once and run in order until it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS
from typer.testing import CliRunner

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.cli.main import build
from bot_layer.cli.options import host_login
from bot_layer.demo.world import Options, World
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.errors import BotError, ConfigError, InputError, PermanentError, ReviewNeeded, TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host import schedule, storage
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.guard import Guard
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.retention import sweep_hourly
from bot_layer.host.rules import inbox as rules
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.runs import Run, Runs, open_runs
from bot_layer.medplum.client import Medplum
from medplum_sandbox.medplum import MedplumSandbox
from tests.host.process import until

AT = Admitted("http://127.0.0.1", "project-1", "b")
NOW = datetime(2026, 5, 4, 3, 0, 20, tzinfo=UTC)
BUSY = TransientError("Busy.", service="Partner", code="busy")


class Trusting(Guard):
    """Admits every event as it is: these tests are about what happens to admitted events."""

    def check(self, handler: Handler, envelope: Json) -> Json | None:  # noqa: ARG002  # the guard's signature
        return envelope


class Script:
    """A bot that does what a test says, and records its calls."""

    def __init__(self, *answers: BotError | threading.Event | None) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []
        self.called = threading.Condition()
        bot = Bot(
            "script",
            "test/script",
            "does what its event says",
            cron="0 3 * * *",
            grants=(Grant("Bot"),),
            watches=(Watch("Patient"),),
        )
        self.handler = Handler(bot, self._act)
        self.bots = Collection({"script": self.handler})

    def _act(self, event: Event) -> Json:
        answer = self.answers.pop(0) if self.answers else None
        with self.called:
            self.seen.append(f"{event.input['id']}/{event.input.get('meta', {}).get('versionId', '')}")
            self.called.notify_all()
        if isinstance(answer, threading.Event):
            assert answer.wait(240)
        if isinstance(answer, BotError):
            raise answer
        return parameters.build()

    def wait_for(self, calls: int) -> None:
        with self.called:
            assert self.called.wait_for(lambda: len(self.seen) >= calls, timeout=120)


def changed(resource_id: str, version: str, interaction: str = "update") -> Json:
    """A Subscription's event."""
    resource = {
        "resourceType": "Patient",
        "id": resource_id,
        "meta": {"versionId": version},
        "name": [{"family": "Unseen"}],
    }
    return {
        "bot": {"reference": "Bot/b"},
        "baseUrl": "http://127.0.0.1/",
        "accessToken": "token-unseen",
        "input": {"deletedResource": resource} if interaction == "delete" else resource,
        "secrets": {"KEY": {"name": "KEY", "valueString": "secret-unseen"}},
        "headers": {"X-Medplum-Subscription": "s", "X-Medplum-Interaction": interaction},
        "traceId": "t",
    }


@contextmanager
def running(tmp_path: Path, script: Script, **settings: Any) -> Iterator[tuple[Inbox, Runs]]:
    """An inbox in a new file, and the view of its runs."""
    chosen: dict[str, Any] = {"attempts": 3, "first_pause": 0.01, "polling": 0.02, "parallel": 8} | settings
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    inbox = Inbox(script.bots, InboxSettings(url, **chosen), environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        with open_runs(url, chosen.get("key")) as runs:
            yield inbox, runs
    finally:
        inbox.close(grace=0)


def ended(runs: Runs, count: int) -> list[Run]:
    """The runs, once so many have ended."""
    found: list[Run] = []

    def enough() -> bool:
        found[:] = [run for run in runs.listed() if run.state not in {"waiting", "running"}]
        return len(found) >= count

    until(enough)
    return found


def test_an_event_delivered_twice_runs_once(tmp_path: Path) -> None:
    """The same change of the same version is one run; another version, or another interaction, is another."""
    script = Script()
    with running(tmp_path, script) as (inbox, runs):
        for event in (changed("a", "1"), changed("a", "1"), changed("a", "2"), changed("a", "2", "delete")):
            if "deletedResource" in event["input"]:
                event["input"]["id"] = "a"
            inbox.take(script.handler, event, AT, now=NOW)
        assert len(ended(runs, 3)) == 3
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        assert len(runs.listed()) == 3
    assert len(script.seen) == 3


def test_events_of_one_resource_run_in_order_and_others_in_parallel(tmp_path: Path) -> None:
    """While the first event of a resource runs its second waits, and another resource's runs."""
    gate = threading.Event()
    script = Script(gate)
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        script.wait_for(1)
        inbox.take(script.handler, changed("a", "2"), AT, now=NOW)
        inbox.take(script.handler, changed("b", "1"), AT, now=NOW)
        for number, resource in enumerate("cde"):  # the queue is asked again for each of them
            ended(runs, number + 1)
            inbox.take(script.handler, changed(resource, "1"), AT, now=NOW)
        ended(runs, 4)
        assert script.seen == ["a/1", "b/1", "c/1", "d/1", "e/1"]
        gate.set()
        ended(runs, 6)
    assert script.seen[-1] == "a/2"


def test_a_transient_failure_is_tried_again(tmp_path: Path) -> None:
    """A TransientError is tried again until it works."""
    script = Script(BUSY, BUSY)
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
    assert (run.state, run.attempts, len(script.seen)) == ("done", 3, 3)


def test_after_the_last_attempt_an_event_is_a_dead_letter(tmp_path: Path) -> None:
    """It is visible with its reason and counted; retry runs it again, and it is no dead letter any more."""
    script = Script(BUSY, BUSY, BUSY)
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
        assert (run.state, run.code, run.attempts) == ("dead", "busy", 3)
        assert inbox.counts() == {"waiting": 0, "running": 0, "dead": 1}
        again = runs.again(run.id, only_failed=True)
        ended(runs, 2)
        assert {each.id: each.state for each in runs.listed()} == {run.id: "retried", again: "dead"}, (
            "no envelope, no login"
        )
        assert runs.one(again).code == "no-login-for-a-later-run"


def test_a_retry_of_an_encrypted_event_runs_it(tmp_path: Path) -> None:
    """With a key the event is there to run again, by retry and by replay."""
    script = Script(PermanentError("No.", service="Partner", code="refused-by-service"))
    with running(tmp_path, script, key="k") as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
        assert (run.state, run.code, run.attempts) == ("dead", "refused-by-service", 1)
        runs.again(run.id, only_failed=True)
        done = next(each for each in ended(runs, 2) if each.id != run.id)
        assert done.state == "done"
        with pytest.raises(InputError, match="replay"):
            runs.again(done.id, only_failed=True)
        runs.again(done.id, only_failed=False)
        ended(runs, 3)
        assert runs.data(runs.one(run.id))["name"] == [{"family": "Unseen"}]
    assert len(script.seen) == 3


@pytest.mark.parametrize("error", [InputError("x", code="c"), ReviewNeeded("x", code="c")])
def test_a_refusal_is_not_retried(tmp_path: Path, error: BotError) -> None:
    """A refusal ends a run: only the caller or a person can fix the cause."""
    script = Script(error)
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
    assert (run.state, run.code, len(script.seen)) == ("refused", "c", 1)


def test_an_event_of_a_removed_bot_is_a_dead_letter(tmp_path: Path) -> None:
    """If this host does not have the bot of a run, the run becomes a dead letter for a person."""
    script = Script()
    with running(tmp_path, script) as (inbox, runs):
        inbox.enqueue(rules.Intake("one", "lane", {"bot": "gone", "kind": "update", "resource": "Patient/a"}))
        (run,) = ended(runs, 1)
    assert (run.state, run.code) == ("dead", "unknown-bot")


def test_a_waiting_run_can_be_cancelled(tmp_path: Path) -> None:
    """A cancelled run does not run; an ended one can't be cancelled."""
    gate = threading.Event()
    script = Script(gate)
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        script.wait_for(1)
        second = inbox.take(script.handler, changed("a", "2"), AT, now=NOW)
        assert second is not None
        runs.cancel(second)
        gate.set()
        assert {run.state for run in ended(runs, 2)} == {"done", "cancelled"}
        with pytest.raises(InputError, match="ended"):
            runs.cancel(second)
        with pytest.raises(InputError, match="no run"):
            runs.one("nothing")
    assert script.seen == ["a/1"]


@pytest.mark.parametrize("key", [None, "k"])
def test_nothing_of_a_person_is_stored_in_the_clear(tmp_path: Path, key: str | None) -> None:
    """The database contains no name, token or secret, with or without a key."""
    script = Script(BUSY)
    with running(tmp_path, script, key=key) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        ended(runs, 1)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Patient/a" in stored
    assert b"nseen" not in stored


def test_finished_runs_are_deleted_after_their_time_and_dead_letters_stay(tmp_path: Path) -> None:
    """Finished runs are kept for seven days; a dead letter is kept until a person resolves it."""
    script = Script(None, ConfigError("x", code="c"))
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        ended(runs, 1)
        inbox.take(script.handler, changed("b", "1"), AT, now=NOW)
        ended(runs, 2)
        now = datetime.now(UTC)
        assert inbox.sweep(now + timedelta(days=6.9)) == 0
        assert inbox.sweep(now + timedelta(days=7.1)) == 1
        assert [run.state for run in runs.listed()] == ["dead"]


def test_a_retried_dead_letter_is_deleted_after_its_time(tmp_path: Path) -> None:
    """A dead letter that was run again is resolved: it is kept as long as a finished run, and no longer."""
    script = Script(ConfigError("x", code="c"))
    with running(tmp_path, script, key="k") as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (dead,) = ended(runs, 1)
        runs.again(dead.id, only_failed=True)
        ended(runs, 2)
        now = datetime.now(UTC)
        assert inbox.sweep(now + timedelta(days=6.9)) == 0
        assert inbox.sweep(now + timedelta(days=7.1)) == 2
        assert runs.listed() == []


def test_a_sweep_leaves_nothing_for_the_next_one_and_a_failed_one_is_not_the_last(tmp_path: Path) -> None:
    """One sweep deletes everything that is due; if the database fails, the sweep of the next hour deletes the rest."""
    script = Script()
    with running(tmp_path, script) as (inbox, runs):
        for resource in "abc":
            inbox.take(script.handler, changed(resource, "1"), AT, now=NOW)
        ended(runs, 3)
        assert inbox.sweep(datetime.now(UTC) + timedelta(days=8), at_once=2) == 3

    class Failing:
        sweeps = 0

        def sweep(self, _now: datetime) -> int:
            self.sweeps += 1
            if self.sweeps == 2:
                stopped.set()
            raise sa.exc.OperationalError("DELETE", {}, Exception("disk I/O error"))

    stopped, failing = threading.Event(), Failing()
    sweep_hourly(failing.sweep, stopped, every=0.0)
    assert failing.sweeps == 2


def test_a_run_that_ended_its_host_too_often_is_counted_as_the_dead_letter_that_it_is(tmp_path: Path) -> None:
    """DBOS gives up an event that killed its host repeatedly: the list and the counts show it as dead."""
    script = Script(ConfigError("x", code="c"))
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        ended(runs, 1)
        with sa.create_engine(inbox.settings.database_url).begin() as connection:
            connection.execute(sa.text("UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'"))
        assert [run.state for run in runs.listed()] == ["dead"]
        assert inbox.counts()["dead"] == 1


def test_an_unforeseen_error_is_a_dead_letter_without_its_text(tmp_path: Path) -> None:
    """An error outside the bot ends its run with a code; neither the list nor the database contains its text."""
    script = Script(ConfigError("x", code="c"))

    def fail() -> Medplum:
        raise ValueError("Unseen after all")

    with running(tmp_path, script, client=fail) as (inbox, runs):
        inbox.enqueue(rules.Intake("one", "lane", {"bot": "script", "botId": "b", "kind": "update"}))
        (run,) = ended(runs, 1)
        assert (run.state, run.code) == ("dead", "internal-error")
    assert b"Unseen" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_the_text_of_an_error_that_is_no_dead_letter_is_shown_nowhere(tmp_path: Path) -> None:
    """Not in the counts that alerts and the status page quote, nor in the state that the doctor reads."""
    script = Script(ConfigError("x", code="c"))
    with running(tmp_path, script) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
        assert (run.code, run.attempts, inbox.dead_letters()) == ("c", 1, {("script", "c"): 1})
        with sa.create_engine(inbox.settings.database_url).begin() as connection:
            replaced = "UPDATE workflow_output SET error = replace(error, 'c after 1', 'Jane Unseen after 1')"
            assert connection.execute(sa.text(replaced)).rowcount == 1
        assert runs.one(run.id).code == "internal-error"
        assert inbox.dead_letters() == {("script", "internal-error"): 1}
        assert inbox.stand("script").code == "internal-error"


def test_a_host_logged_in_elsewhere_does_not_pass_an_event_off_as_done(tmp_path: Path) -> None:
    """A resource that the host's login can't see may be of another project or server: then the run is a dead letter."""
    script = Script()
    with _world(script) as (world, _), running(tmp_path, script, client=world.client) as (inbox, runs):
        record = {"bot": "script", "kind": "update", "resource": "Practitioner/00000000-0000-4000-8000-000000000000"}
        record["botId"] = "00000000-0000-4000-8000-000000000001"
        inbox.enqueue(rules.Intake("one", "lane-1", record))
        (run,) = ended(runs, 1)
    assert (run.state, run.code) == ("dead", "no-login-for-a-later-run")


def test_an_event_that_can_not_be_stored_runs_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk loses no event: it runs while the caller waits, and the log says so without the database's text."""
    script = Script()
    with running(tmp_path, script) as (inbox, _runs):
        storage.write_something(inbox._probe._engine)
        with sa.create_engine(inbox.settings.database_url).begin() as connection:
            for table in ("workflow_status", "bot_trial"):
                raising = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
                connection.execute(sa.text(f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} {raising}"))
        ready = [inbox.ready, inbox.take(script.handler, changed("a", "1"), AT, now=NOW), inbox.ready]
        inbox._probe.look()  # nothing is locked: the right to write is still given
        ready.append(inbox.ready)
        with sa.create_engine(inbox.settings.database_url).begin() as connection:
            connection.execute(sa.text("DROP TRIGGER full_bot_trial"))
        inbox._probe.look()
        assert [*ready, inbox.ready] == [True, None, False, False, True]
    assert "IntegrityError" in caplog.text
    assert "Patient/a" not in caplog.text


def test_a_run_without_its_envelope_is_repeated_through_medplum(tmp_path: Path) -> None:
    """An event that lost its envelope runs on the resource as Medplum has it, with a fresh token of the bot's own."""
    script = Script()
    script.handler = Handler(Bot("script", "test/script", "x", grants=(Grant("Practitioner"),)), script._act)
    script.bots = Collection({"script": script.handler})
    with _world(script) as (world, bot_id):
        person = world.client().create({"resourceType": "Practitioner"})
        with running(tmp_path, script, client=world.client) as (inbox, runs):
            record = {"bot": "script", "botId": bot_id, "kind": "update", "resource": f"Practitioner/{person['id']}"}
            gone = record | {"resource": "Practitioner/00000000-0000-4000-8000-000000000000"}
            inbox.enqueue(rules.Intake("one", "lane-1", record))
            inbox.enqueue(rules.Intake("two", "lane-2", gone))
            assert {run.id: run.state for run in ended(runs, 2)} == {"one": "done", "two": "done"}
    assert script.seen == [f"{person['id']}/{person['meta']['versionId']}"]


def test_a_bot_that_works_longer_than_a_service_may_be_silent_is_waited_for(tmp_path: Path) -> None:
    """Through Medplum the answer comes when the bot is done: the same run is not started a second time meanwhile."""
    script = Script()
    with _world(script) as (world, bot_id):
        world.medplum.faults.add("slow", path="$execute", seconds=0.3)
        login = partial(host_login, world.environment() | {"BOT_TIMEOUT_SECONDS": "0.2"}, script.bots)
        with running(tmp_path, script, client=login) as (inbox, runs):
            inbox.enqueue(rules.cron("script", Admitted(world.medplum.base_url, "", bot_id), NOW))
            (run,) = ended(runs, 1)
    assert (run.state, run.attempts, len(script.seen)) == ("done", 1, 1)


@pytest.mark.parametrize(("back", "state", "attempts"), [(False, "dead", 3), (True, "done", 2)])
def test_a_run_whose_host_medplum_does_not_reach_is_tried_again(
    tmp_path: Path, back: bool, state: str, attempts: int
) -> None:
    """Medplum's 400 may say that it lost the host, or found none: it may be back at the next attempt."""
    script = Script()
    with _world(script) as (world, bot_id):
        there, world.medplum.bot_host = world.medplum.bot_host, "127.0.0.1:1"
        asked: list[str] = []

        def come_back(_method: str, path: str) -> bool:
            if path.endswith("$execute"):
                asked.append(path)
            if back and len(asked) == 2:
                world.medplum.bot_host = there
            return False

        world.medplum.faults.add("slow", when=come_back)
        with running(tmp_path, script, client=world.client) as (inbox, runs):
            inbox.enqueue(rules.cron("script", Admitted(world.medplum.base_url, "", bot_id), NOW))
            (run,) = ended(runs, 1)
    assert (run.state, run.attempts, len(asked)) == (state, attempts, attempts)


def test_the_hosts_own_clock_runs_one_at_a_time(tmp_path: Path) -> None:
    """Runs by the host's clock do not pile up: of those missed, or due while one runs, only one is made."""
    gate = threading.Event()
    script = Script(gate)
    with _world(script) as (world, bot_id), running(tmp_path, script, client=world.client) as (inbox, runs):
        assert schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW) == 1
        for minute in range(4):
            due = NOW + timedelta(minutes=minute)
            inbox.enqueue_alone(rules.cron("script", Admitted(world.medplum.base_url, "", bot_id), due))
        script.wait_for(1)
        assert len(runs.listed()) == 1
        gate.set()
        ended(runs, 1)
        DBOS.trigger_schedule("script")
        ended(runs, 2)
    assert script.seen[0].startswith(bot_id)


def test_a_run_that_is_due_while_another_runs_is_dropped_at_every_host(tmp_path: Path) -> None:
    """Hosts that put four nights into the inbox, each of them twice, make one run of it while that one is on."""
    gate = threading.Event()
    script = Script(gate)
    with _world(script) as (world, _), running(tmp_path, script, client=world.client) as (_inbox, runs):
        schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW)
        DBOS.trigger_schedule("script")
        script.wait_for(1)
        ticks = [DBOS.backfill_schedule("script", NOW, NOW + timedelta(days=4)) for _host in range(2)]
        for each in ticks[0] + ticks[1]:
            each.get_result()
        assert ([len(each) for each in ticks], len(runs.listed())) == ([4, 4], 1)
        gate.set()
        ended(runs, 1)
    assert len(script.seen) == 1


def test_after_an_outage_the_last_missed_run_is_made_up_once(tmp_path: Path) -> None:
    """The first start makes up for nothing; one after five missed nights runs the last; another finds it done."""
    script = Script()
    outage = NOW + timedelta(days=5)

    def start(now: datetime) -> list[str]:
        """What a host that is started then finds in the inbox."""
        with running(tmp_path, script, client=world.client) as (_, runs):
            for _each in "two hosts":
                schedule.start(script.bots, world.client(), world.medplum.base_url, now=now)
            until(lambda: all(run.state == "done" for run in runs.listed()))
            return sorted(run.version for run in runs.listed())

    with _world(script) as (world, _bot_id):
        assert start(NOW) == []
        assert start(NOW + timedelta(hours=23)) == []
        assert start(outage) == ["2026-05-09T03:00"]
        assert start(outage + timedelta(hours=23)) == ["2026-05-09T03:00"]
        with running(tmp_path, script) as (inbox, runs):
            assert inbox.sweep(datetime.now(UTC) + timedelta(days=8)) > 0
            assert runs.listed() == []
        assert start(outage + timedelta(hours=23)) == [], "it is not made up for again once its run is swept"
        assert start(outage + timedelta(hours=24)) == ["2026-05-10T03:00"]
    assert len(script.seen) == 2


def test_a_new_cron_string_makes_up_for_no_missed_run(tmp_path: Path) -> None:
    """A time that a bot did not have yet while no host was up was not missed."""
    script = Script()
    with _world(script) as (world, _bot_id), running(tmp_path, script, client=world.client) as (_inbox, runs):
        schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW)
        script.bots = Collection({"script": Handler(replace(script.handler.bot, cron="0 2 * * *"), script._act)})
        schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW + timedelta(days=5))
        assert runs.listed() == []
        schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW + timedelta(days=6))
        assert [run.version for run in ended(runs, 1)] == ["2026-05-10T02:00"]


def test_a_schedule_that_no_bot_declares_any_more_is_deleted(tmp_path: Path) -> None:
    """A schedule of an earlier release does not continue as a dead letter every night."""
    script = Script()
    with _world(script) as (world, _), running(tmp_path, script):
        schedule.start(script.bots, world.client(), world.medplum.base_url, now=NOW)
        assert [each["schedule_name"] for each in DBOS.list_schedules()] == ["script"]
        still = Collection({"script": Handler(replace(script.handler.bot, cron=None), script._act)})
        assert schedule.start(still, world.client(), world.medplum.base_url, now=NOW) == 0
        assert DBOS.list_schedules() == []


def test_a_bot_that_is_not_deployed_is_not_scheduled(tmp_path: Path) -> None:
    """A schedule for a Bot that the server lacks is reported at start, not at night."""
    script = Script()
    with MedplumSandbox() as server, running(tmp_path, script):
        world = World(Options(with_bots=False))
        world.medplum = server
        with pytest.raises(ConfigError, match="Deploy script"):
            schedule.start(script.bots, world.client(), server.base_url, now=NOW)


def test_the_same_minute_of_two_projects_is_two_runs() -> None:
    """One host may serve several projects: a bot that each of them runs at three is run for each."""
    ids = [
        taken.id
        for bot_id in ("a", "b", "a")
        if (taken := rules.intake(timer(bot_id), "script", replace(AT, bot_id=bot_id), now=NOW))
    ]
    assert (len(ids), len(set(ids))) == (3, 2)


def timer(bot_id: str) -> Json:
    """A timer's event, whose input is the Bot itself."""
    bot = {"resourceType": "Bot", "id": bot_id}
    return {"bot": {"reference": f"Bot/{bot_id}"}, "baseUrl": "http://127.0.0.1/", "input": bot}


@pytest.mark.parametrize(
    ("other", "runs"),
    [
        (AT, 1),
        (replace(AT, server="http://127.0.0.2"), 2),
        (replace(AT, project="project-2"), 2),
        (replace(AT, bot_id="c"), 2),
    ],
)
def test_an_event_of_one_server_does_not_swallow_that_of_another(other: Admitted, runs: int) -> None:
    """Staging may be a copy of production with the same ids: server, project and Bot distinguish their events."""
    taken = [rules.intake(changed("a", "1"), "script", at, now=NOW) for at in (AT, other)]
    assert len({each.id for each in taken if each}) == runs
    assert len({each.lane for each in taken if each}) == runs


@pytest.mark.parametrize(
    ("one", "another", "runs"),
    [
        (changed("a", "1", "create"), changed("a", "1", "update"), 1),
        (changed("a", "1"), changed("a", "1") | {"headers": {"X-Medplum-Subscription": "another"}}, 1),
        (changed("a", "1"), changed("a", "1", "delete"), 2),
        (changed("a", "1"), changed("a", "2"), 2),
        (changed("a", ""), changed("a", "") | {"input": {"resourceType": "Patient", "id": "a"}}, 2),
    ],
)
def test_one_version_is_one_run_however_it_is_reported(one: Json, another: Json, runs: int) -> None:
    """The kind of interaction and the Subscription do not matter; a deletion has the last version and runs too."""
    taken = [rules.intake(each, "script", AT, now=NOW) for each in (one, another)]
    assert len({each.id for each in taken if each}) == runs


def test_two_minutes_stay_two_where_the_hosts_clock_is_a_little_late() -> None:
    """Medplum fires in the first tenths of a minute: by a late clock the last of the one before."""
    event = timer("b")
    minute = NOW.replace(second=0)
    came = (minute + timedelta(seconds=0.02), minute + timedelta(seconds=59.98))
    ids = [taken.id for now in came if (taken := rules.intake(event, "script", AT, now=now))]
    assert len(set(ids)) == 2


@contextmanager
def _world(script: Script) -> Iterator[tuple[World, str]]:
    """Medplum with the script deployed and a host that runs it at once; the Bot's id."""
    with World(Options(with_bots=False)) as world:
        request = Request(script.bots)
        assert carry_out(world.client(), request, survey(world.client(), request)).error is None
        (bot,) = world.client().search("Bot", [("name", "script")])
        with HostServer(HostSettings((world.medplum.base_url,), script.bots, environ={})) as host:
            world.medplum.bot_host = host.base_url.removeprefix("http://")
            yield world, bot["id"]


def test_the_command_shows_and_handles_runs(tmp_path: Path) -> None:
    """``runs list``, ``show``, ``retry``, ``replay`` and ``cancel``; personal data is shown only on request."""
    script = Script(ConfigError("x", code="not-set"))
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(
            build(["runs"]), ["runs", *arguments, "--inbox", url], env={"BOT_HOST_INBOX_KEY": "k"}
        )
        return result.exit_code, result.output

    with running(tmp_path, script, key="k") as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (dead,) = ended(runs, 1)
        assert "not-set" in run("list", "--bot", "script", "--state", "dead", "--since", "1h")[1]
        assert run("list", "--bot", "other")[1] == ""
        assert "Unseen" not in run("show", dead.id)[1]
        assert "Unseen" in run("show", dead.id, "--data")[1]
        assert "token-unseen" not in run("show", dead.id, "--data")[1]
        assert run("retry", dead.id)[0] == 0
        ended(runs, 2)
        assert run("replay", dead.id)[0] == 0
        ended(runs, 3)
        assert run("cancel", dead.id)[0] == 2
        assert run("show", "nothing")[0] == 2
        assert run("list", "--since", "soon")[0] == 2
        assert '"state": "done"' in run("list", "--json")[1]


def test_a_dead_letter_is_found_behind_any_number_of_newer_runs(tmp_path: Path) -> None:
    """The list goes back as far as needed: successful runs do not hide what a person must resolve."""
    script = Script(ConfigError("x", code="c"))
    with running(tmp_path, script) as (inbox, runs):
        for number, resource in enumerate("abcd"):
            inbox.take(script.handler, changed(resource, "1"), AT, now=NOW)
            ended(runs, number + 1)
        runs.most = 3
        assert [run.resource for run in runs.listed(state="dead")] == ["Patient/a"]
        assert [run.resource[-1] for run in runs.listed()] == ["d", "c", "b"]


def test_following_prints_each_run_that_is_new_or_in_another_state(tmp_path: Path) -> None:
    """The newest first of all, then what changed since the last look, all of it, and nothing twice."""
    gate = threading.Event()
    script = Script(None, None, gate)
    with running(tmp_path, script) as (inbox, runs):
        for number, resource in enumerate("xyz"):
            inbox.take(script.handler, changed(resource, "1"), AT, now=NOW)
            ended(runs, min(number + 1, 2))
        script.wait_for(3)
        until(lambda: runs.listed(limit=1)[0].state == "running")
        looks = 0

        def go_on() -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:
                inbox.take(script.handler, changed("v", "1"), AT, now=NOW)
                inbox.take(script.handler, changed("w", "1"), AT, now=NOW)
                gate.set()
                ended(runs, 5)
            return looks < 4

        printed = [(run.resource[-1], run.state) for run in runs.followed(go_on=go_on, limit=2)]
    assert printed == [("y", "done"), ("z", "running"), ("z", "done"), ("v", "done"), ("w", "done")]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"headers": {"authorization": "x"}, "requester": {}, "input": {"resourceType": "Parameters"}}, False),
        ({"headers": {"authorization": "x"}, "requester": {}, "input": {"resourceType": "Bot", "id": "b"}}, False),
        ({"headers": {"authorization": "x"}, "input": "MSH|"}, False),
        ({"input": {"resourceType": "Bot", "id": "b"}}, True),
        ({"headers": {"X-Medplum-Subscription": "s"}, "input": {"resourceType": "Patient", "id": "a"}}, True),
        ({"headers": {"x-medplum-subscription": "s"}, "input": {"resourceType": "Patient", "id": "a"}}, False),
        ({"headers": ["X-Medplum-Subscription"], "input": {"resourceType": "Bot", "id": "a"}}, False),
    ],
)
def test_only_what_nobody_waits_for_is_taken_in(given: Json, taken: bool) -> None:
    """Subscription and cron events go to the inbox; operations and ``$execute`` are answered when done."""
    envelope = {"bot": {"reference": "Bot/b"}, "baseUrl": "http://127.0.0.1/"} | given
    assert (rules.intake(envelope, "script", AT, now=NOW) is not None) is taken


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "done"),
        (BUSY, "again"),
        (InputError("x"), "refused"),
        (ReviewNeeded("x"), "refused"),
        (ConfigError("x"), "dead"),
    ],
)
def test_an_answer_by_way_of_medplum_is_judged_as_the_error_itself(error: BotError | None, state: str) -> None:
    """The verdict on an answer equals the verdict on the error that it reports."""
    answer = Script().handler.failure(error, {}) if error else parameters.build()
    assert rules.verdict(error).state == state
    assert rules.verdict_of_answer(answer).state == state


def test_pauses_double_up_to_ten_minutes() -> None:
    """Pauses double, respect Retry-After, and end after the last attempt."""
    assert [rules.pause(n, None, first=2, most=4) for n in range(4)] == [2, 4, 8, None]
    assert rules.pause(0, 30.0, first=2, most=4) == 30
    assert rules.pause(20, None, first=2, most=99) == 600


def test_a_timer_of_a_bot_that_is_not_configured_makes_one_dead_letter(tmp_path: Path) -> None:
    """Later runs fail for the same reason; after a person resolves the first, the next one is a dead letter again."""
    missing = ConfigError("x", code="missing-settings")
    script = Script(missing, missing, missing, ConfigError("x", code="other"))
    timer: Json = {"bot": {"reference": "Bot/b"}, "input": {"resourceType": "Bot", "id": "b"}}
    with running(tmp_path, script, key="k") as (inbox, runs):
        for number in range(4):
            inbox.take(script.handler, timer, AT, now=NOW + timedelta(minutes=5 * number))
            found = ended(runs, number + 1)
        assert Counter((run.state, run.code) for run in found) == {
            ("dead", "missing-settings"): 1,
            ("refused", "missing-settings"): 2,
            ("dead", "other"): 1,
        }
