"""100 calls hang on a silent partner: how quickly does the host store events and answer its pages?

The host is a separate process with an inbox on SQLite. Its bot calls a partner that accepts connections and sends
nothing. Before and while the calls hang, events are sent one after the other, and ``/readyz`` and ``/metrics`` are
requested.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.deploy.run import Request as Deployment
from bot_layer.deploy.run import carry_out, survey
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox

HANGING = 100
ROUNDS = 200
BOT = Bot("silent", "benchmark/silent", "asks a partner that says nothing", watches=(Watch("Patient"),), timeout=60)


def run(console: Console) -> None:
    """Print p50, p99 and the longest time of each kind of request, before and while the calls hang."""
    table = Table("request", "calls that hang", "p50 ms", "p99 ms", "longest ms")
    with MedplumSandbox(quota=10_000_000) as medplum, _silent() as partner:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        request = Deployment(Collection({"silent": Handler(BOT, lambda _event: parameters.build())}))
        carry_out(server, request, survey(server, request))
        (bot,) = server.search("Bot", [("name", "silent")])
        (subscription, *_) = server.search("Subscription", [("url", f"Bot/{bot['id']}")])
        envelope: Json = {
            "bot": {"reference": f"Bot/{bot['id']}"},
            "baseUrl": f"{medplum.base_url}/",
            "accessToken": medplum.token_for(f"Bot/{bot['id']}"),
        }
        with _host(medplum.base_url, partner) as host:
            url = f"{host}/bot-{bot['id']}"
            _measure(table, host, url, envelope, subscription["id"], hanging=0)
            call = envelope | {"input": {}, "requester": {"reference": "Practitioner/p"}, "headers": {"accept": "*/*"}}
            for _ in range(HANGING):
                threading.Thread(target=_hang, args=(url, call), daemon=True).start()
            time.sleep(3)  # those beyond the limit are already refused
            _measure(table, host, url, envelope, subscription["id"], hanging=HANGING)
    console.print(table)


def _measure(table: Table, host: str, url: str, envelope: Json, subscription: str, *, hanging: int) -> None:
    numbers = iter(range(hanging * 1000, hanging * 1000 + ROUNDS))
    headers = {"X-Medplum-Subscription": subscription, "X-Medplum-Interaction": "create"}

    def event() -> None:
        patient = {"resourceType": "Patient", "id": f"p{next(numbers)}", "meta": {"versionId": "1"}}
        answer = http.post(url, json=envelope | {"input": patient, "headers": headers}).json()
        assert answer["logResult"].startswith("queued"), answer

    with httpx.Client(timeout=120) as http:
        asked: dict[str, Callable[[], object]] = {
            "event taken in": event,
            "GET /readyz": lambda: http.get(f"{host}/readyz").raise_for_status(),
            "GET /metrics": lambda: http.get(f"{host}/metrics").raise_for_status(),
        }
        for name, ask in asked.items():
            seconds = sorted(_timed(ask) for _ in range(ROUNDS))
            figures = (statistics.median(seconds), statistics.quantiles(seconds, n=100)[98], seconds[-1])
            table.add_row(name, str(hanging), *(f"{each * 1000:.1f}" for each in figures))


def _timed(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _hang(url: str, call: Json) -> None:
    with suppress(httpx.HTTPError):  # at the end the host is killed
        httpx.post(url, json=call, timeout=300)


@contextmanager
def _silent() -> Iterator[str]:
    """A partner that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@contextmanager
def _host(medplum: str, partner: str) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.silent_partner", medplum, partner], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def _serve(medplum: str, partner: str) -> None:
    def act(_event: Event) -> Json:
        Transport("Partner").send("GET", partner, path="silent")
        return parameters.build()

    bots = Collection({"silent": Handler(BOT, act)})
    with tempfile.TemporaryDirectory() as folder:
        inbox = Inbox(bots, InboxSettings(f"sqlite:///{Path(folder) / 'inbox.sqlite'}"), environ={})
        inbox.launch()
        with HostServer(HostSettings((medplum,), bots, environ={}, inbox=inbox)) as server:
            print(server.base_url, flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    _serve(*sys.argv[1:3])
