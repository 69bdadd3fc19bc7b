"""How long an ``$execute`` takes its caller: a Python bot through the Fission route against a JavaScript bot.

Both handlers are empty, and the calls alternate, one at a time, on one server in one run. It needs a real Medplum
whose Fission router is this machine (``fission.routerHost``, ``routerPort``), and a client that administrates a
project:

    export MEDPLUM_BASE_URL=... MEDPLUM_CLIENT_ID=... MEDPLUM_CLIENT_SECRET=... BENCH_FISSION_PORT=8765
    python -m benchmarks latency
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
import uuid

import httpx
from rich.console import Console
from rich.table import Table

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host import listen, listening
from bot_layer.host.host import HostSettings, app
from bot_layer.medplum.client import Medplum, connect_environment

ROUNDS = 500
WARM_UP = 50
NAMES = ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET", "BENCH_FISSION_PORT")
EMPTY = Handler(Bot("empty", "benchmark/empty", "does nothing"), lambda _event: parameters.build())
JAVASCRIPT = "exports.handler = async () => ({ resourceType: 'Parameters' });\n"


def run(console: Console) -> None:
    """Print p50, p95 and their quotient; or what must be set to measure."""
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        console.print(f"Not measured: set {', '.join(missing)} for a real server.")
        return
    server = connect_environment(os.environ)
    project = server.get("auth/me")["project"]["id"]
    bots = [_made(server, project, runtime) for runtime in ("vmcontext", "fission")]
    try:
        with _Host(os.environ["MEDPLUM_BASE_URL"], os.environ["BENCH_FISSION_PORT"]):
            _print(console, *_measured(server, [bot["id"] for bot in bots]))
    finally:
        for bot in bots:
            server.delete(f"Bot/{bot['id']}")


def _made(server: Medplum, project: str, runtime: str) -> Json:
    """A Bot of a runtime, with an empty handler."""
    name = {"name": f"latency {runtime} {uuid.uuid4().hex[:8]}", "description": "benchmark", "runtimeVersion": runtime}
    bot = server.post(f"admin/projects/{project}/bot", name)
    bot = server.change(
        f"Bot/{bot['id']}",
        lambda now: now | {"identifier": [{"system": BOT_IDENTIFIER_SYSTEM, "value": EMPTY.bot.identifier}]},
    )
    if runtime == "vmcontext":
        server.post(f"fhir/R4/Bot/{bot['id']}/$deploy", {"code": JAVASCRIPT, "filename": "index.js"})
    return bot


def _measured(server: Medplum, bot_ids: list[str]) -> list[list[float]]:
    """The milliseconds of each call, for each bot; the calls alternate."""
    headers = {"Authorization": f"Bearer {server.client.access_token}", "Content-Type": "application/fhir+json"}
    times: list[list[float]] = [[] for _ in bot_ids]
    with httpx.Client(base_url=server.client.base_url, headers=headers, timeout=60) as client:
        for number in range(WARM_UP + ROUNDS):
            for bot_id, found in zip(bot_ids, times, strict=True):
                begun = time.perf_counter()
                answer = client.post(f"fhir/R4/Bot/{bot_id}/$execute", json={"resourceType": "Parameters"})
                taken = (time.perf_counter() - begun) * 1000
                if answer.status_code != 200 or answer.json() != {"resourceType": "Parameters"}:
                    raise SystemExit(f"A bot answered {answer.status_code}: {answer.text[:300]}")
                if number >= WARM_UP:
                    found.append(taken)
    return times


def _print(console: Console, javascript: list[float], python: list[float]) -> None:
    table = Table("bot", "p50 ms", "p95 ms", title=f"$execute, {ROUNDS} calls each, alternating")
    percentiles = []
    for name, times in (("JavaScript (vmcontext)", javascript), ("Python (Fission route)", python)):
        cuts = statistics.quantiles(times, n=20)
        percentiles.append((cuts[9], cuts[18]))
        table.add_row(name, f"{cuts[9]:.1f}", f"{cuts[18]:.1f}")
    table.add_row("Python / JavaScript", *(f"{p / j:.2f}" for j, p in zip(*percentiles, strict=True)))
    console.print(table)


class _Host:
    """The host in a separate process, as in production."""

    def __init__(self, base_url: str, port: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.latency", base_url, port]
        self._url = f"http://127.0.0.1:{port}/readyz"

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command)
        with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=10) as client:
            if client.get(self._url).status_code != 200:
                raise SystemExit("The host did not start.")

    def __exit__(self, *_fault: object) -> None:
        self._process.terminate()
        self._process.wait()


def serve(base_url: str, port: int) -> None:
    """Serve the empty bot until SIGTERM."""
    import uvicorn  # noqa: PLC0415  # only in the process of the host

    settings = HostSettings((base_url,), Collection({"empty": EMPTY}), environ={})
    bound = listening.bind(listening.LOOPBACK, port)
    asyncio.run(listen.run(uvicorn.Server(listen.config(app(settings), grace=1)), bound))


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
