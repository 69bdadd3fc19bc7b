"""Bots that hang delay neither the intake of events, nor other bots, nor the pages of the host."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import TransientError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.host import calls
from bot_layer.host.calls import Calls, Turn
from bot_layer.host.invoke import invoke
from bot_layer.host.latest import Latest
from bot_layer.http.transport import Transport
from tests.host.test_inbox import AT, NOW, Trusting, changed
from tests.host.world import TokenServer, bot_resource, envelope, hosted

LIMIT = 3


class Hanging:
    """A bot whose calls hang until a test releases them."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = threading.Condition()
        self.end = threading.Event()
        self.handler = Handler(
            Bot("hanging", "test/hanging", "hangs", watches=(Watch("Patient"),), timeout=600), self._act
        )
        self.quick = Handler(Bot("quick", "test/quick", "answers"), lambda _event: parameters.build())
        self.bots = Collection({"hanging": self.handler, "quick": self.quick})

    def _act(self, _event: Event) -> Json:
        with self.begun:
            self.running += 1
            self.begun.notify_all()
        assert self.end.wait(240)
        return parameters.build()

    def wait_for(self, count: int) -> None:
        with self.begun:
            assert self.begun.wait_for(lambda: self.running >= count, timeout=240)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    monkeypatch.setattr(calls, "_WAIT_SECONDS", 0.05)
    return Hanging()


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    server.login("token-hanging", bot_resource("b-1", "test/hanging"))
    server.login("token-quick", bot_resource("b-2", "test/quick"))
    with server.server:
        yield server


@contextmanager
def full(medplum: TokenServer, hanging: Hanging) -> Iterator[tuple[httpx.Client, list[Future[httpx.Response]]]]:
    """A host with as many hanging calls of one bot as it may have."""
    event = envelope(medplum, "token-hanging", {}, requester={"reference": "Practitioner/p"})
    with hosted(medplum, bots=hanging.bots, calls_of_a_bot=LIMIT) as (client, _), ThreadPoolExecutor(LIMIT) as pool:
        waiting = [pool.submit(client.post, "/bot-b-1", json=event, timeout=240) for _ in range(LIMIT)]
        hanging.wait_for(LIMIT)
        try:
            yield client, waiting
        finally:
            hanging.end.set()


def test_a_bot_has_its_own_limit_of_calls(medplum: TokenServer, hanging: Hanging) -> None:
    """Above the limit the answer is 503 with Retry-After and the reason; other bots and pages still answer."""
    with full(medplum, hanging) as (client, waiting):
        event = envelope(medplum, "token-hanging", {}, requester={"reference": "Practitioner/p"})
        refused = client.post("/bot-b-1", json=event)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        output = parameters.one(refused.json()["returnValue"], "outcome")
        assert isinstance(output, dict) and outcomes.codes(output) == ["too-many-calls"]
        other = envelope(medplum, "token-quick", {}, bot={"reference": "Bot/b-2"})
        assert client.post("/bot-b-2", json=other).json()["success"] is True
        for page in ("/healthz", "/readyz", "/metrics"):
            assert client.get(page).status_code == 200
        hanging.end.set()
        assert {each.result(240).status_code for each in waiting} == {200}
        assert client.post("/bot-b-1", json=event).status_code == 200


class Work:
    """The work of a call in its thread: it takes a slot and works until a test lets it end."""

    def __init__(self, *, timeout: float = 600) -> None:
        self.timeout = timeout
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self, turn: Turn, *, may_wait: bool = False) -> str:
        with turn.of_bot("bot", timeout=self.timeout, may_wait=may_wait):
            self.begun.set()
            assert self.end.wait(240)
        return "done"


def _at_once(turn: Turn) -> str:
    with turn.of_bot("bot", timeout=600):
        return "done"


def test_an_event_waits_for_its_turn_instead_of_being_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medplum would not send it again."""
    monkeypatch.setattr(calls, "_WAIT_SECONDS", 0.05)

    async def run() -> list[str]:
        places, work, done = Calls(1), Work(), []

        async def event() -> None:
            done.append(await places.answer(partial(work, may_wait=True)))

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(event)
            await anyio.to_thread.run_sync(work.begun.wait, 240)
            with pytest.raises(TransientError, match="too many calls"):
                await places.answer(_at_once)
            work.end.set()
        return done

    assert asyncio.run(run()) == ["done", "done"]


def test_a_caller_waits_no_longer_than_the_bot_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error; the bot keeps its slot until it really ends."""
    monkeypatch.setattr(calls, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(calls, "_WAIT_SECONDS", 0.05)

    async def run() -> tuple[str, str, str]:
        places, work = Calls(1), Work(timeout=0.05)
        with pytest.raises(TransientError) as late:
            await places.answer(work)
        with pytest.raises(TransientError) as full:
            await places.answer(_at_once)
        work.end.set()
        return late.value.code, full.value.code, await places.answer(partial(work, may_wait=True))

    assert asyncio.run(run()) == ("timed-out", "too-many-calls", "done")


def test_calls_that_run_or_wait_for_their_bot_are_not_in_the_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intake takes one call at a time here: it takes the third while one runs and one waits."""
    monkeypatch.setattr(calls, "_INTAKE", 1)

    async def run() -> str:
        places, work = Calls(1), Work()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(places.answer, partial(work, may_wait=True))
            answer = await places.answer(lambda _turn: "stored")
            work.end.set()
        return answer

    assert asyncio.run(run()) == "stored"


def test_a_call_that_is_given_up_before_it_begins_costs_no_place() -> None:
    """A caller that disconnects at once does not occupy a slot forever."""

    async def run() -> str:
        places = Calls(1)
        for _ in range(20):  # more than the intake takes
            with anyio.CancelScope() as scope:
                scope.cancel()
                await places.answer(_at_once)
        return await places.answer(_at_once)

    assert asyncio.run(run()) == "done"


def test_the_page_of_figures_does_not_wait_for_a_database_that_hangs() -> None:
    """It has the latest known counts, asks once at a time, and shows the new ones when they are there."""
    end, asked = threading.Event(), []

    def count() -> dict[str, int]:
        asked.append(1)
        if len(asked) == 2:
            assert end.wait(240)
        return {"waiting": len(asked)}

    async def run() -> list[dict[str, int]]:
        figures = Latest[dict[str, int]](count, {}, keep=0.0)
        while not (first := await figures.get(wait=0.05)):
            pass
        stale = [await figures.get(wait=0.05), await figures.get(wait=0.05)]
        end.set()
        while (fresh := await figures.get(wait=0.05)) == first:
            pass
        return [first, *stale, fresh]

    assert asyncio.run(run())[:3] == [{"waiting": 1}] * 3
    assert len(asked) <= 3


def test_a_partner_that_says_nothing_gets_no_more_time_than_the_bot_has() -> None:
    """The declared timeout ends every wait of a call, whatever the partner's own timeout is."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        def act(_event: Event) -> Json:
            Transport("Partner").send("GET", url, path="slow")
            return parameters.build()

        result = invoke(Handler(Bot("slow", "test/slow", "asks", timeout=1), act), {})
    assert isinstance(result.error, TransientError)


def test_events_are_stored_while_bots_hang(tmp_path: Path, medplum: TokenServer, hanging: Hanging) -> None:
    """An event is stored and answered although every call of its bot hangs."""
    from bot_layer.host.durable import Inbox, InboxSettings  # noqa: PLC0415  # the other tests do without DBOS

    inbox = Inbox(hanging.bots, InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}"), environ={}, guard=Trusting({}))
    inbox.launch()
    call = envelope(medplum, "token-hanging", {}, requester={"reference": "Practitioner/p"})
    try:
        with (
            hosted(medplum, bots=hanging.bots, calls_of_a_bot=LIMIT, inbox=inbox) as (client, _),
            ThreadPoolExecutor(LIMIT) as pool,
        ):
            for _ in range(LIMIT):
                pool.submit(client.post, "/bot-b-1", json=call, timeout=240)
            hanging.wait_for(LIMIT)
            for number in range(60):  # more than all threads of the intake
                changed: dict[str, Any] = {"resourceType": "Patient", "id": f"p{number}", "meta": {"versionId": "1"}}
                headers = {"X-Medplum-Subscription": "s", "X-Medplum-Interaction": "create"}
                event = envelope(medplum, "token-hanging", changed, headers=headers)
                assert client.post("/bot-b-1", json=event).json()["logResult"].startswith("queued: ")
            hanging.end.set()
    finally:
        hanging.end.set()
        inbox.close(grace=20)


def test_runs_that_hang_do_not_keep_another_bots_events_waiting(tmp_path: Path, hanging: Hanging) -> None:
    """Each bot with Subscriptions has its own queue and threads."""
    from bot_layer.host.durable import Inbox, InboxSettings  # noqa: PLC0415  # the other tests do without DBOS

    called = threading.Event()

    def act(_event: Event) -> Json:
        called.set()
        return parameters.build()

    watch = (Watch("Patient"),)
    slow = Handler(Bot("slow", "test/slow", "hangs", watches=watch, timeout=600), hanging.handler.act)
    quick = Handler(Bot("quick", "test/quick", "answers", watches=watch), act)
    settings = InboxSettings(f"sqlite:///{tmp_path / 'inbox.sqlite'}", parallel=2)
    inbox = Inbox(Collection({"slow": slow, "quick": quick}), settings, environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        for number in range(6):
            inbox.take(slow, changed(f"p{number}", "1"), AT, now=NOW)
        hanging.wait_for(2)
        inbox.take(quick, changed("q", "1"), AT, now=NOW)
        assert called.wait(240)
        assert hanging.running == 2
    finally:
        hanging.end.set()
        inbox.close(grace=20)
