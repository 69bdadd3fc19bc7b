"""Catch-up: changes made while no host answered are found, queued, and run once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bot_layer.bot.collection import load
from bot_layer.cli.main import build
from bot_layer.demo.world import World
from bot_layer.fhir.json import Json
from bot_layer.host.catch_up import CatchUp, own_server
from bot_layer.host.marks import Mark, Marks
from bot_layer.host.rules.inbox import Intake
from bot_layer.host.runs import open_runs
from tests.host.enrolments import accounts, deployed, newcomer, written_back
from tests.host.process import HostProcess, until

BOTS = load().only(["sync-practitioner"])


class Queue:
    """Runs that are stored and never run."""

    def __init__(self) -> None:
        self.stored: dict[str, Intake] = {}
        self.waiting = 0

    def known(self, ids: Any) -> set[str]:
        return set(ids) & set(self.stored)

    def enqueue(self, taken: Intake) -> None:
        self.stored.setdefault(taken.id, taken)

    def counts(self) -> dict[str, int]:
        return {"waiting": self.waiting}

    def resources(self) -> list[str]:
        return sorted(taken.record["resource"] for taken in self.stored.values())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with deployed() as running:
        yield running


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Marks]:
    opened = Marks(f"sqlite:///{tmp_path / 'inbox.sqlite'}", "server")
    yield opened
    opened.close()


def search(world: World, queue: Queue, **more: Any) -> CatchUp:
    """A catch-up that also takes changes made just now."""
    chosen: dict[str, Any] = {"settle": timedelta(0)} | more
    return CatchUp(BOTS, world.client(), world.medplum.base_url, queue, **chosen)


def practitioner(world: World, **more: Any) -> Json:
    return world.client().create({"resourceType": "Practitioner", "name": [{"family": "Example"}], **more})


def test_changes_since_the_mark_are_queued_once(world: World, queue: Queue, marks: Marks) -> None:
    """Nothing from before the first start, each change after it, and none twice although the overlap finds it again."""
    practitioner(world)
    catch_up = search(world, queue, overlap=timedelta(days=1))
    catch_up.start(marks)
    found = [practitioner(world), practitioner(world)]
    assert catch_up.run(marks) == 2
    assert queue.resources() == sorted(f"Practitioner/{each['id']}" for each in found)
    assert catch_up.run(marks) == 0
    changed = world.client().update(found[0] | {"active": True})
    assert catch_up.run(marks) == 1
    assert changed["meta"]["versionId"] in {taken.record["version"] for taken in queue.stored.values()}


def test_a_change_in_the_second_of_the_start_is_not_missed(world: World, queue: Queue, marks: Marks) -> None:
    """The server's clock counts whole seconds: a change can be up to a second later than its stamp."""
    search(world, queue).start(marks)
    changed = practitioner(world)
    second = datetime.fromisoformat(changed["meta"]["lastUpdated"]).replace(microsecond=0)
    assert search(world, queue, now=lambda: second).run(marks) == 1
    assert queue.resources() == [f"Practitioner/{changed['id']}"]
    mark = marks.latest()
    assert mark is not None and mark <= datetime.now(UTC)


def test_a_bots_own_write_hides_no_change_of_others(world: World, queue: Queue, marks: Marks) -> None:
    """A bot's own write is not new to it; the version before, of which it may not know, is."""
    catch_up = search(world, queue)
    catch_up.start(marks)
    theirs = practitioner(world)
    (bot,) = world.client().search("Bot", [("name", "sync-practitioner")])
    _as_bot(world, bot["id"], theirs | {"active": True})
    assert catch_up.run(marks) == 1
    (taken,) = queue.stored.values()
    assert taken.record["version"] == theirs["meta"]["versionId"]


def test_changes_while_a_subscription_was_off_are_not_caught_up(world: World, queue: Queue, marks: Marks) -> None:
    """It was switched off on purpose; catch-up resumes when the Subscription is active again."""
    client, catch_up = world.client(), search(world, queue)
    catch_up.start(marks)
    (bot,) = client.search("Bot", [("name", "sync-practitioner")])
    subscriptions = client.search("Subscription", [("url", f"Bot/{bot['id']}")])
    try:
        for each in subscriptions:
            client.change(f"Subscription/{each['id']}", lambda now: now | {"status": "off"})
        practitioner(world)
        assert catch_up.run(marks) == 0
    finally:
        for each in subscriptions:
            client.change(f"Subscription/{each['id']}", lambda now: now | {"status": "active"})
    seen = practitioner(world)
    catch_up.run(marks)
    assert queue.resources() == [f"Practitioner/{seen['id']}"]


def test_a_subscription_that_is_new_is_caught_up_from_its_beginning(world: World, queue: Queue, marks: Marks) -> None:
    """Deployed while the host was down, it has missed everything since."""
    marks.put("another", Mark(datetime.now(UTC), datetime.now(UTC)))
    (bot,) = world.client().search("Bot", [("name", "sync-practitioner")])
    for each in world.client().search("Subscription", [("url", f"Bot/{bot['id']}")]):
        world.client().change(f"Subscription/{each['id']}", lambda now: now | {"reason": f"{now['reason']}."})
    missed = practitioner(world)
    search(world, queue).run(marks)
    assert queue.resources() == [f"Practitioner/{missed['id']}"]


def test_more_than_the_quota_bears_waits_for_the_next_pass(
    world: World, queue: Queue, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many runs wait, a pass queues one page; a later pass continues there."""
    monkeypatch.setattr("bot_layer.host.catch_up.PAGE", 2)
    catch_up = search(world, queue, overlap=timedelta(0))
    catch_up.start(marks)
    found = [practitioner(world) for _ in range(5)]
    queue.waiting = 501
    passes = [catch_up.run(marks) for _ in range(6)]
    assert sum(passes) == 5
    assert passes[0] == 2
    assert len(queue.stored) == len(found)


def test_a_mark_never_moves_back(marks: Marks) -> None:
    """Of two hosts the one that saw more is believed."""
    first = datetime(2026, 5, 4, tzinfo=UTC)
    later = first + timedelta(minutes=5)
    marks.put("s", Mark(first, later))
    marks.put("s", Mark(first, first))
    assert marks.get("s") == Mark(first, later)
    assert marks.latest() == later
    marks.drop("s")
    assert (marks.get("s"), marks.latest()) == (None, None)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"MEDPLUM_BASE_URL": "https://one.example/", "MEDPLUM_CLIENT_ID": "c"}, "https://one.example"),
        ({"MEDPLUM_BASE_URL": "https://other.example", "MEDPLUM_CLIENT_ID": "c"}, None),
    ],
)
def test_only_the_server_of_the_hosts_login_is_searched(environ: dict[str, str], found: str | None) -> None:
    """At another server of the list the host has no login."""
    assert own_server(environ, ("https://one.example", "https://two.example")) == found


@pytest.fixture
def fresh() -> Iterator[World]:
    with deployed() as running:
        yield running


@pytest.mark.no_cover
def test_missed_clinicians_are_enrolled_at_the_next_start(fresh: World, tmp_path: Path) -> None:
    """Created while no host was there: enrolled once, without anyone doing anything."""
    settings = {**fresh.environment(), "BOT_HOST_INBOX_KEY": "a-key-of-32-characters-for-a-test"}
    with HostProcess(fresh.medplum.base_url, tmp_path / "inbox.sqlite", **settings) as host:
        host.kill()
        host.wait()
        fresh.medplum.bot_host = "127.0.0.1:9"
        missed = {number: newcomer(fresh, number) for number in range(1, 4)}
        fresh.medplum.settle(timeout=240)
        fresh.medplum.bot_host = host.address
        host.start()
        until(lambda: all(written_back(fresh, each) for each in missed.values()))
        until(host.idle)
        for number, each in missed.items():
            assert (accounts(fresh, number), len(written_back(fresh, each))) == (1, 1)


@pytest.mark.no_cover
def test_missed_changes_can_be_caught_up_by_hand(fresh: World, tmp_path: Path) -> None:
    """A dry run shows it, the command queues it once, and a host runs it."""
    database = tmp_path / "inbox.sqlite"
    settings = {**fresh.environment(), "BOT_HOST_CATCH_UP_SECONDS": "0"}
    missed = newcomer(fresh, 1)
    fresh.medplum.settle(timeout=240)
    with HostProcess(fresh.medplum.base_url, database, **settings) as host:
        fresh.medplum.bot_host = host.address
        shown, queued, again = (_by_hand(fresh, database, *options) for options in (["--dry-run"], [], []))
        assert f"Practitioner/{missed['id']}" in shown
        assert shown.splitlines()[:-1] == queued.splitlines()[:-1]
        assert again == "0 changes are queued.\n"
        until(lambda: len(written_back(fresh, missed)) == 1)
        until(host.idle)
    with open_runs(f"sqlite:///{database}") as runs:
        assert {(run.kind, run.state) for run in runs.listed()} >= {("catch-up", "done")}


def _by_hand(world: World, database: Path, *options: str) -> str:
    words = ["catch-up", "--since", "1h", "--bot", "sync-practitioner", "--inbox", f"sqlite:///{database}", *options]
    done = CliRunner().invoke(build(["runs"]), ["runs", *words], env=world.environment())
    assert done.exit_code == 0, done.output
    return done.output


def _as_bot(world: World, bot_id: str, resource: Json) -> None:
    """Write a resource as the bot does."""
    from bot_layer.bot.event import Event  # noqa: PLC0415
    from bot_layer.medplum.client import connect  # noqa: PLC0415

    connect(Event(world.medplum.base_url, world.medplum.token_for(f"Bot/{bot_id}"), None)).update(resource)
