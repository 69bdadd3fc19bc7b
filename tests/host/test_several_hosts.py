"""Several hosts of one PostgreSQL database, as real processes: they share the work and complete a dead host's runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer, WorkflowStatus
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.demo.world import World
from bot_layer.host import storage
from bot_layer.host.runs import open_runs
from medplum_sandbox.server import Server
from tests import loopback
from tests.host.enrolments import accounts, deployed, newcomer, written_back
from tests.host.gate import Gate
from tests.host.process import HostProcess, until

pytestmark = pytest.mark.no_cover  # the hosts that count are other processes

# Long enough for hosts that live on a busy machine, which must not be taken for dead.
LIMIT = "6"


@pytest.fixture
def world() -> Iterator[World]:
    with deployed() as running:
        yield running


@contextmanager
def both(*hosts: HostProcess) -> Iterator[str]:
    """An address that sends each event to every host that lives, as a server does that delivers twice."""

    def deliver(path: str, body: bytes) -> bytes:
        answers = []
        for host in hosts:
            try:
                answers.append(loopback.post(f"http://{host.address}{path}", content=body, timeout=240).content)
            except httpx.TransportError:
                assert not host.alive
        return answers[0]

    async def bot(request: Request) -> Response:
        body = await request.body()
        return Response(await run_in_threadpool(deliver, request.url.path, body), media_type="application/json")

    with Server(Starlette(routes=[Route("/{bot}", bot, methods=["POST"])])) as server:
        yield server.base_url.removeprefix("http://")


@contextmanager
def opened(url: str) -> Iterator[DBOSClient]:
    """The database of the hosts, seen from outside."""
    client = DBOSClient(system_database_url=url, serializer=DBOSPortableJSONSerializer())
    try:
        yield client
    finally:
        client.destroy()


def holders(client: DBOSClient) -> Counter[str]:
    """How many runs each host has under way."""
    found: list[WorkflowStatus] = client.list_workflows(status="PENDING")
    return Counter(run.executor_id or "" for run in found)


def every_second(url: str) -> None:
    """Let the schedules fall due each second, instead of waiting for a real one."""
    parsed = sa.make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = sa.create_engine(parsed if is_sqlite else parsed.set(drivername="postgresql+psycopg"))
    table = sa.table("workflow_schedules", sa.column("schedule"), schema=None if is_sqlite else "dbos")
    with engine.begin() as connection:
        connection.execute(table.update().values(schedule="* * * * * *"))
    engine.dispose()


def ticks(client: DBOSClient) -> int:
    """How often the clock struck."""
    return len(client.list_workflows(name="tick"))


def schedules(client: DBOSClient) -> set[str]:
    """Whether the schedules are followed (ACTIVE) or rest (PAUSED)."""
    return {each["status"] for each in client.list_schedules()}


def heartbeats(url: str, count: int, look: Callable[[], object] = lambda: None) -> None:
    """Wait until the database's hosts have sent this many heartbeats, and call ``look`` while waiting."""
    seen: set[float] = set()
    engine = storage.open_engine(url)

    def enough() -> bool:
        look()
        with engine.connect() as connection:
            seen.update(connection.execute(sa.text("SELECT beat FROM bot_hosts")).scalars())
        return len(seen) > count

    until(enough)
    engine.dispose()


@pytest.mark.parametrize("key", ["a-key-of-at-least-32-characters!"], ids=["encrypted"])
def test_runs_of_a_killed_host_are_finished_by_the_other(world: World, postgres_url: str, key: str) -> None:
    """If a host is killed mid-run and never returns, another completes its runs: every clinician is enrolled once."""
    settings = {"BOT_HOST_TAKEOVER_SECONDS": LIMIT, "BOT_HOST_INBOX_KEY": key, **world.environment()}
    gate = Gate()
    world.gorilla.faults.add("slow", when=gate, seconds=0)
    with (
        HostProcess(world.medplum.base_url, postgres_url, **settings) as one,
        HostProcess(world.medplum.base_url, postgres_url, **settings) as two,
        opened(postgres_url) as client,
    ):
        world.medplum.bot_host = one.address
        clinicians = [newcomer(world, number) for number in range(1, 25)]
        world.medplum.settle(timeout=240)  # what a host is just receiving when it is killed would be lost
        until(lambda: len(holders(client)) == 2)
        (dead,) = [host for host in holders(client) if f"-{one.pid}-" in host]
        one.kill()
        one.wait()
        gate.open.set()
        world.medplum.bot_host = two.address
        clinicians += [newcomer(world, number) for number in range(25, 31)]
        world.medplum.settle(timeout=240)
        until(two.idle)
        assert any(dead in line for line in two.lines), "it says whose runs it took over"
        for number, clinician in enumerate(clinicians, start=1):
            assert (accounts(world, number), len(written_back(world, clinician))) == (1, 1), number
        with open_runs(postgres_url) as runs:
            assert {run.state for run in runs.listed(limit=1000)} == {"done"}


def test_an_event_that_both_hosts_receive_runs_once(world: World, postgres_url: str) -> None:
    """Hosts share a database: an event that both receive is one run on one of them."""
    settings = {"BOT_HOST_INBOX_KEY": "a-key-of-at-least-32-characters!", **world.environment()}
    gate = Gate()
    world.gorilla.faults.add("slow", when=gate, seconds=0)
    with (
        HostProcess(world.medplum.base_url, postgres_url, **settings) as one,
        HostProcess(world.medplum.base_url, postgres_url, **settings) as two,
        both(one, two) as address,
        opened(postgres_url) as client,
    ):
        world.medplum.bot_host = address
        clinicians = [newcomer(world, number) for number in range(1, 25)]
        until(lambda: len(holders(client)) == 2)
        gate.open.set()
        world.medplum.settle(timeout=240)
        until(lambda: one.idle() and two.idle())
        for number, clinician in enumerate(clinicians, start=1):
            assert (accounts(world, number), len(written_back(world, clinician))) == (1, 1)
        taken = [host.figure('bot_calls_total{bot="sync-practitioner",result="queued"}') for host in (one, two)]
        with open_runs(postgres_url) as runs:
            assert Counter(run.resource for run in runs.listed(limit=1000)) == {
                f"Practitioner/{clinician['id']}": 1 for clinician in clinicians
            }
        assert taken == [24, 24]


@pytest.fixture
def idle_world(world: World) -> World:
    """The same, but the scheduled bot has no settings: each of its runs ends at once."""
    world.put_secrets({})
    return world


def _executions(world: World) -> int:
    """How often a host had Medplum run a bot."""
    return sum(each.path.endswith("/$execute") for each in world.medplum.requests)


def test_hosts_with_a_clock_make_one_run_of_a_minute(idle_world: World, postgres_url: str) -> None:
    """However many hosts serve with --cron, and however often the clock strikes in a minute: one run of it."""
    world = idle_world
    settings = {"BOT_HOST_TAKEOVER_SECONDS": LIMIT, **world.environment()}
    with (
        HostProcess(world.medplum.base_url, postgres_url, "--cron", **settings) as one,
        HostProcess(world.medplum.base_url, postgres_url, "--cron", **settings) as two,
        opened(postgres_url) as client,
    ):
        world.medplum.bot_host = two.address
        every_second(postgres_url)
        until(lambda: ticks(client) >= 4)
        one.kill()
        one.wait()
        before = ticks(client)
        until(lambda: ticks(client) >= before + 3)  # the other one continues
        client.pause_schedule("pf-bulk-sync")
        until(two.idle)
        with open_runs(postgres_url) as runs:
            made = [run.id for run in runs.listed()]
        assert 1 <= len(made) <= 2, "the test may pass over the turn of a minute"
        assert _executions(world) == len(made)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_without_a_clock_the_schedules_stop(
    idle_world: World, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A host that is restarted without --cron pauses the schedules; a restart with it resumes them."""
    postgres = kind == "postgresql"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    world = idle_world
    settings = {"BOT_HOST_TAKEOVER_SECONDS": "2", **world.environment()}
    with HostProcess(world.medplum.base_url, url, "--cron", **settings) as timed, opened(url) as client:
        world.medplum.bot_host = timed.address
        every_second(url)
        until(lambda: ticks(client) >= 2)
        assert timed.terminate() == 0
        with HostProcess(world.medplum.base_url, url, **settings) as untimed:
            world.medplum.bot_host = untimed.address
            assert schedules(client) == {"PAUSED"}
            heartbeats(url, 2)  # DBOS has looked at the schedules once more
            before = ticks(client)
            heartbeats(url, 6)
            assert (ticks(client), schedules(client)) == (before, {"PAUSED"})
            assert untimed.terminate() == 0
        timed.start()
        assert schedules(client) == {"ACTIVE"}


def test_the_schedules_run_as_long_as_a_host_with_a_clock_is_alive(idle_world: World, postgres_url: str) -> None:
    """A host without --cron does not touch another host's clock; once that host is dead, it stops the clock."""
    world = idle_world
    settings = {"BOT_HOST_TAKEOVER_SECONDS": LIMIT, **world.environment()}
    with (
        HostProcess(world.medplum.base_url, postgres_url, "--cron", **settings) as timed,
        HostProcess(world.medplum.base_url, postgres_url, **settings),
        opened(postgres_url) as client,
    ):
        seen: set[str] = set()
        heartbeats(postgres_url, 9, lambda: seen.update(schedules(client)))
        assert seen == {"ACTIVE"}
        timed.kill()
        timed.wait()
        until(lambda: schedules(client) == {"PAUSED"})
