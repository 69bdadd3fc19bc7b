"""The host's share of a call, against a bare Starlette echo in the same run; and events a second through the inbox.

Both hosts are processes of their own. ``$execute`` goes through Medplum's look-alike, which gives each run a new token,
so the host asks Medplum each time whom it acts as, before any bot runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.deploy.run import Request as Deployment
from bot_layer.deploy.run import carry_out, survey
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.listening import ThreadedServer
from bot_layer.host.rules.inbox import Intake
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox

CALLS = 200
EVENTS = 300


def _nothing(_event: Event) -> Json:
    return parameters.build()


NOTHING = Handler(Bot("nothing", "benchmark/nothing", "does nothing"), _nothing)
BOTS = Collection({"nothing": NOTHING})


def run(console: Console) -> None:
    """Print p50 and p95 of calls, and the rate of the inbox."""
    table = Table("call", "host", "p50 ms", "p95 ms", "against the echo (p50)")
    with MedplumSandbox(quota=10_000_000) as medplum:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        request = Deployment(BOTS)
        carry_out(server, request, survey(server, request))
        (bot,) = server.search("Bot", [("name", "nothing")])
        token = medplum.token_for(f"Bot/{bot['id']}")
        envelope = {"bot": {}, "baseUrl": f"{medplum.base_url}/", "accessToken": token, "input": {}, "requester": {}}
        with _host("echo", medplum.base_url) as echo, _host("host", medplum.base_url) as host:
            calls: dict[str, Callable[[str], list[float]]] = {
                "POST /bot-<id>, token known": lambda url: _direct(url, bot["id"], envelope),
                "Bot/$execute through Medplum": lambda url: _execute(medplum, url, bot["id"]),
            }
            for name, call in calls.items():
                bare, ours = call(echo), call(host)
                table.add_row(name, "bare Starlette echo", *_figures(bare), "1")
                ratio = statistics.median(ours) / statistics.median(bare)
                table.add_row(name, "medplum-bots", *_figures(ours), f"{ratio:.2f}")
    console.print(table)
    _inbox(console)


def _figures(seconds: list[float]) -> tuple[str, str]:
    return f"{statistics.median(seconds) * 1000:.2f}", f"{statistics.quantiles(seconds, n=20)[18] * 1000:.2f}"


def _direct(url: str, bot_id: str, envelope: Json) -> list[float]:
    with httpx.Client() as http:
        return _timed(lambda: http.post(f"{url}/bot-{bot_id}", json=envelope))


def _execute(medplum: MedplumSandbox, url: str, bot_id: str) -> list[float]:
    medplum.bot_host = url.removeprefix("http://")
    with httpx.Client(headers={"Authorization": f"Bearer {medplum.token_for()}"}) as http:
        return _timed(lambda: http.post(f"{medplum.base_url}/fhir/R4/Bot/{bot_id}/$execute", json={}))


def _timed(call: Callable[[], httpx.Response]) -> list[float]:
    found: list[float] = []
    for _ in range(CALLS):
        began = time.perf_counter()
        assert call().status_code == 200
        found.append(time.perf_counter() - began)
    return found[CALLS // 10 :]  # without the first ones, which open connections


def _inbox(console: Console) -> None:
    """Events a second: stored, and run to their end, each of another resource."""
    ended = threading.Event()
    done: list[int] = []

    def act(_event: Event) -> Json:
        done.append(1)
        if len(done) == EVENTS:
            ended.set()
        return parameters.build()

    bots = Collection({"nothing": Handler(NOTHING.bot, act)})
    with tempfile.TemporaryDirectory() as folder:
        inbox = Inbox(bots, InboxSettings(f"sqlite:///{Path(folder) / 'inbox.sqlite'}"), environ={})
        inbox.launch()
        began = time.perf_counter()
        for number in range(EVENTS):
            record = {"bot": "nothing", "botId": "b", "kind": "update", "resource": f"Patient/{number}"}
            inbox.enqueue(
                Intake(f"event-{number}", f"lane-{number}", record), {"baseUrl": "http://127.0.0.1/", "input": {}}
            )
        stored = time.perf_counter() - began
        ended.wait(300)
        whole = time.perf_counter() - began
        inbox.close(grace=5)
    console.print(
        f"Inbox on SQLite: {EVENTS / stored:.0f} events a second stored, {len(done) / whole:.0f} run to their end."
    )


@contextmanager
def _host(kind: str, medplum: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.host", kind, medplum], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


async def _echo(request: Request) -> JSONResponse:
    await request.json()
    return JSONResponse(
        {"returnValue": {"resourceType": "Parameters", "parameter": []}, "logResult": "", "success": True}
    )


def _serve(kind: str, medplum: str) -> None:
    bare = Starlette(routes=[Route("/bot-{id}", _echo, methods=["POST"])])
    echo = ThreadedServer(uvicorn.Config(bare, log_config=None, access_log=False, lifespan="off", ws="none"))
    with echo if kind == "echo" else HostServer(HostSettings((medplum,), BOTS, environ={})) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _serve(*sys.argv[1:3])
