"""A host with a status page that has everything on it, and strings of a person planted wherever they could leak."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bot_layer.bot.collection import Collection, load
from bot_layer.bot.declaration import Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import AuthError, InputError, PermanentError, ReviewNeeded
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.history import HEALTH, OPERATION, Entry, History
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.pages.routes import StatusPage
from bot_layer.host.pages.values import PageSettings, Practice, Progress
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.runs import Runs, connect_runs, without_inbox
from tests import loopback
from tests.host.process import until
from tests.host.test_inbox import Trusting
from tests.host.world import TokenServer, bot_resource, envelope

PASSWORD = "correct horse battery"
PLANTED = (
    "Plantedsurname",
    "Plantedgiven",
    "1987-06-05",
    "987-65-4320",
    "planted-token",
    "planted-secret",
    "planted text",
)
NAMES = ("sync-practitioner", "create-staff-user", "sync-location", "register-patient")
AT = Admitted("http://127.0.0.1", "project-1", "b")
FREE = threading.Event()
# Of the Practitioner's given name: what the bot does with them.
FATES: dict[str, Exception | None] = {
    "done": None,
    "refused": ReviewNeeded(f"{PLANTED[0]} is there twice: {PLANTED[6]}", code="account-ambiguous"),
    "input": InputError(f"{PLANTED[0]}, born {PLANTED[2]}", code="npi-missing"),
    "dead": PermanentError(f"no {PLANTED[0]}", service="Partner", code="refused-by-service"),
    "login": AuthError(f"{PLANTED[4]} is no good", code="login-refused"),
    "broken": KeyError(f"{PLANTED[0]} {PLANTED[3]}"),
}


def act(event: Event) -> Json:
    """Ends as the fate in the input says, and always talks of the person. With the fate ``slow`` it waits."""
    if event.input.get("fate") == "slow":
        assert FREE.wait(240)
        return parameters.build(parameters.code("action", "enrolled"))
    fate = FATES[str(event.input["fate"] if "fate" in event.input else event.text("fate"))]
    if fate is not None:
        raise fate
    return parameters.build(
        parameters.code("action", "enrolled"),
        parameters.string("who", PLANTED[0]),
        parameters.string("ssn", PLANTED[3]),
    )


def bots() -> Collection:
    """The bundled bots' names and words, with another inside."""
    declared = load()
    chosen = (declared.named(name).bot for name in NAMES)
    return Collection(
        {bot.name: Handler(replace(bot, settings=(), watches=(Watch("Practitioner"),)), act) for bot in chosen}
    )


def person(resource_id: str, fate: str) -> Json:
    """A Practitioner with everything that must not be seen."""
    return {
        "resourceType": "Practitioner",
        "id": resource_id,
        "meta": {"versionId": "1"},
        "name": [{"family": PLANTED[0], "given": [PLANTED[1]]}],
        "birthDate": PLANTED[2],
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-ssn", "value": PLANTED[3]}],
        "fate": fate,
    }


def event(resource_id: str, fate: str) -> Json:
    """A Subscription's event about that person."""
    return {
        "bot": {"reference": "Bot/b"},
        "baseUrl": "http://127.0.0.1/",
        "accessToken": PLANTED[4],
        "input": person(resource_id, fate),
        "secrets": {"KEY": {"name": "KEY", "valueString": PLANTED[5]}},
        "headers": {"X-Medplum-Subscription": "s", "X-Medplum-Interaction": "update"},
        "traceId": "t",
    }


@dataclass
class Syncs:
    """Three practices, and the calls made to them."""

    asked: list[tuple[str, str]] = field(default_factory=list)

    def practices(self) -> list[Practice]:
        now = time.time()
        types = (("Condition", 1204, 1204), ("Observation", 13600, 40100), ("Patient", 412, 412))
        progress = tuple(Progress(kind, done, 0, expected) for kind, done, expected in types)
        partial = "3 Observation were not exported by the source (error exception). The next run asks again."
        failed = "The run stopped with login-refused. A partner refused the login. Check its settings under Set-up."
        hours = 3600.0
        return [
            Practice(
                "north", "load", True, running=True, last_success=now - 25 * hours, seconds_left=840, progress=progress
            ),
            Practice(
                "south", "partial", True, last_success=now - 30 * hours, next_run=now + 9 * hours, problems=(partial,)
            ),
            Practice(
                "west", "failed", False, last_success=now - 90 * hours, next_run=now + 2 * hours, problems=(failed,)
            ),
        ]

    def start(self, name: str) -> None:
        self.asked.append(("start", name))

    def cancel(self, name: str) -> None:
        self.asked.append(("cancel", name))


def findings() -> list[Finding]:
    """Some of each kind."""
    return [
        Finding("server", "passed", "server-works", "Medplum 5.1.13 answers."),
        Finding("clock", "passed", "clock-works", "The clocks differ by 0 s."),
        Finding("deployment", "warning", "drift", "2 resources differ from what is declared: deploy again."),
        Finding(
            "Health Gorilla token",
            "failed",
            "login-refused",
            "Health Gorilla refused the login: check HEALTH_GORILLA_CLIENT_SECRET.",
        ),
        Finding("Health Gorilla directory", "skipped", "check-skipped", "Skipped, because an earlier step failed."),
    ]


@dataclass(frozen=True)
class Site:
    """A running host: its address, its data, and a client that is not signed in."""

    server: HostServer
    client: httpx.Client
    history: History
    runs: Runs
    inbox: Inbox | None
    syncs: Syncs
    page: StatusPage

    @contextmanager
    def with_a_waiting_run(self) -> Iterator[None]:
        """Two versions of one resource: the first runs until the end, the second waits for it."""
        assert self.inbox is not None
        FREE.clear()
        for version in ("1", "2"):
            slow = event("slow", "slow")
            slow["input"]["meta"]["versionId"] = version
            self.inbox.take(bots().named(NAMES[0]), slow, AT, now=datetime.now(UTC))
        until(lambda: bool(self.runs.listed(state="running") and self.runs.listed(state="waiting")))
        try:
            yield
        finally:
            FREE.set()

    def sign_in(self) -> None:
        """Sign the client in."""
        answer = self.client.post("/status/sign-in", data={"password": PASSWORD})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/status"


@contextmanager
def site(tmp_path: Path, *, with_inbox: bool = True, healthy: bool = False, **page: Any) -> Iterator[Site]:
    """A host with the status page; events and operations of every fate have run on it, unless it is healthy."""
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}"
    history = History(url if with_inbox else None)
    settings = InboxSettings(url, polling=0.02, first_pause=0.01, host_id="clinic-host-1")
    box = Inbox(bots(), settings, environ={}, guard=Trusting({}), history=history) if with_inbox else None
    medplum, syncs = TokenServer(), Syncs()
    token = medplum.login("token", bot_resource("b-1", load().named(NAMES[0]).bot.identifier))
    assert token
    runs = connect_runs(url, history) if with_inbox else without_inbox(history)
    data = ("practices", syncs.practices), ("start", syncs.start), ("cancel", syncs.cancel), ("findings", findings)
    values: dict[str, Any] = {"app_url": "https://app.example.org"} | ({} if healthy else dict(data)) | page
    status = StatusPage(PageSettings(PASSWORD, bots(), history, box, lambda: runs, **values))
    host = HostSettings(
        (medplum.server.base_url,), bots(), {}, inbox=box, history=history, more_routes=tuple(status.routes())
    )
    if box is not None:
        box.launch()
    try:
        with medplum.server, HostServer(host) as server, loopback.client(base_url=server.base_url) as client:
            fates = {"done": None} if healthy else FATES
            if box is not None:
                for number, fate in enumerate((*fates, *fates)):
                    box.take(bots().named(NAMES[number % 4]), event(f"p-{number}", fate), AT, now=datetime.now(UTC))
            for fate in fates:
                given = {"resourceType": "Parameters", "parameter": [{"name": "fate", "valueString": fate}]}
                client.post("/bot-b-1", json=envelope(medplum, "token", given))
            if box is not None:
                until(lambda: all(run.state not in ("waiting", "running") for run in runs.listed()))
            history.flush()
            yield Site(server, client, history, runs, box, syncs, status)
    finally:
        if box is not None:
            box.close(grace=5)
            runs.close()
        history.close()


def two_weeks(history: History) -> None:
    """Runs and health of two weeks, the same each time."""
    now = time.time()
    for day in range(14):
        for number, name in enumerate(NAMES):
            for count in range((day * 7 + number * 11) % 19 + 4 - 3 * (day % 7 in (2, 3))):
                state = (
                    "refused"
                    if count % 9 == 8
                    else "failed"
                    if (day, number) in ((4, 1), (9, 3)) and count < 2
                    else "done"
                )
                at, ms = now - day * 86_400 - 60 * count, 180.0 + 97 * ((count * 5 + number) % 13)
                code = {"refused": "npi-missing", "failed": "service-unreachable"}.get(state, "")
                history.add(Entry(f"h-{day}-{number}-{count}", at, name, OPERATION, state, code, "enrolled", ms))
        for name in ("north", "south", "west"):
            bad = {"south": "refused", "west": "failed"}.get(name) if day < 2 else "done"
            history.add(Entry(f"{HEALTH}-{name}-{day}", now - day * 86_400, name, HEALTH, bad or "done"))
    history.flush()
