"""What a Practice Fusion sync costs: quota, requests and memory. Its speed is in ``bulk_speed``.

``python -m benchmarks.pf_sync --big-mb 2048`` measures memory with the full file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from carebundle import generate_cohort, to_ndjson
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot_layer.bot.event import Event
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import totals
from bot_layer.bulk_sync.rules.settings import read_settings
from bot_layer.bulk_sync.target.upserts import Draft
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.medplum.client import Medplum, connect, connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.quota import Quotas
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches, generate
from medplum_sandbox.server import Server

_PATIENTS = 225  # about 45 resources each
_START = datetime(2024, 1, 1, tzinfo=UTC)
_UNLIMITED = 10**9
_MB = 1024 * 1024


def run(console: Console, *, small_mb: int = 5, big_mb: int = 50) -> None:
    """Print the figures. The files of the memory test are small unless larger ones are requested."""
    table = Table("what", "figure", "goal", title="Practice Fusion sync")
    for row in _unchanged():
        table.add_row(*row)
    table.add_row(f"peak memory of a run, file of {small_mb} MB and of {big_mb} MB", *_memory(small_mb, big_mb))
    console.print(table)


def _practice() -> Source:
    """Third-party resources: a cohort of US Core patients with their records, the same each time."""
    source = Source()
    for lines in to_ndjson(generate_cohort(count=_PATIENTS, seed=7)).values():
        for line in lines.splitlines():
            source.add(orjson.loads(line), at=_START)
    source.groups["everybody"] = dict.fromkeys(source.entries["Patient"], _START)
    return source


# -- Against the sandbox


def _unchanged() -> list[tuple[str, str, str]]:
    """Units of Medplum's quota for resources that it already has, and the requests of a run with nothing new."""
    with (
        _ends(_practice()) as (medplum, source),
        tempfile.TemporaryDirectory() as folder,
    ):
        with _sync(medplum, source, Path(folder)) as sync:
            sync.run(Options())
        asked = len(medplum.requests), len(source.requests)
        # As the bot does it: Medplum gives it a token with each call.
        with _sync(medplum, source, Path(folder), connect(Event(medplum.base_url, medplum.token_for(), None))) as sync:
            seen = totals(_counts(sync, Options()))["seen"]
        asked = len(medplum.requests) - asked[0], len(source.requests) - asked[1]
        number = source.source.count()
        with_look_up = _units(medplum, lambda: _full_run(medplum, source, Path(folder)))
        without_map = _units(medplum, lambda: _full_run(medplum, source, None))
        usual = _units(medplum, lambda: _conditional_puts(medplum, source.source))
    return [
        (
            "requests of the bot's incremental run with nothing new, ready when first asked",
            f"{sum(asked)} ({asked[0]} to Medplum, {asked[1]} to the source; {seen} resources came)",
            "< 10",
        ),
        (
            f"units for {number:,} unchanged resources, each looked at, of conditional PUTs'",
            f"1/{usual / with_look_up:.0f} ({with_look_up:,} of {usual:,}; without the map on disk {without_map:,})",
            "<= 1/100",
        ),
    ]


def _full_run(medplum: MedplumSandbox, source: PracticeFusionSandbox, folder: Path | None) -> None:
    with _sync(medplum, source, folder) as sync:
        sync.run(Options(full=True))


def _conditional_puts(medplum: MedplumSandbox, source: Source) -> None:
    """The batches from the integration's description: 100 conditional PUTs each, in sequence."""
    writer = MedplumWriter(_login(medplum), source.base, share=1.0, conditional=True)
    lines = [each.line for kind in source.entries.values() for each in kind.values()]
    for start in range(0, len(lines), 100):
        values = [orjson.loads(line) for line in lines[start : start + 100]]
        writer.upsert(
            [Draft(Key(each["resourceType"], each["id"]), source_mark.prepare(each, source.base)) for each in values]
        )


class _Counting(Quotas):
    """Medplum's quota, which totals its use."""

    units = 0

    def charge(self, project: str, membership: str, units: int) -> None:
        """Count, and charge as usual."""
        self.units += units
        super().charge(project, membership, units)


def _units(medplum: MedplumSandbox, work: Callable[[], object]) -> int:
    quotas = _Counting(_UNLIMITED)
    medplum.world.quotas = quotas
    work()
    return quotas.units


@contextmanager
def _ends(source: Source) -> Iterator[tuple[MedplumSandbox, PracticeFusionSandbox]]:
    with (
        MedplumSandbox(quota=_UNLIMITED, auth_rate_limit=10**6) as medplum,
        # The export is ready at the first status request: otherwise a run with nothing new waits as long as the source
        # says.
        PracticeFusionSandbox(source, switches=Switches.general(polls=0)) as end,
    ):
        yield medplum, end


@contextmanager
def _sync(
    medplum: MedplumSandbox, source: PracticeFusionSandbox, folder: Path | None = None, login: Medplum | None = None
) -> Iterator[Sync]:
    settings = read_settings(source.settings())
    # There is no wait between two requests to the source: the benchmark measures the writing.
    within = Surroundings(place=str(folder or ""), sleep=lambda seconds: time.sleep(min(seconds, 0.05)))
    sync = Sync(settings, login or _login(medplum), within=within)
    try:
        yield sync
    finally:
        sync.map.close()


def _login(medplum: MedplumSandbox) -> Medplum:
    return connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)


def _counts(sync: Sync, options: Options) -> dict[str, dict[str, int]]:
    run_ = sync.run(options).run
    if run_ is None or run_.phase != "done":
        raise AssertionError("the run came to its end")
    return {kind: dict(row) for kind, row in run_.counts.items()}


# -- Memory


def _memory(small_mb: int, big_mb: int) -> tuple[str, str]:
    small, big = _peak(small_mb), _peak(big_mb)
    growth = big["peak"] / small["peak"] - 1
    speed = big["resources"] / big["seconds"]
    figure = f"{small['peak']:.0f} MB, {big['peak']:.0f} MB: {growth:+.1%} ({speed:,.0f} resources a second)"
    return figure, "< 200 MB, < 10 % more"


def _peak(size_mb: int) -> dict[str, float]:
    """The peak of a separate process, which syncs one file of this size into a Medplum that stores nothing."""
    source = generate(17, 1, types=("Patient",))
    source.add_big("Observation", size_mb * _MB)
    switches = Switches.general(gzip=False, counts=False)
    with (
        Server(_Sink().app()) as sink,
        PracticeFusionSandbox(source, switches=switches) as end,
        tempfile.TemporaryDirectory() as folder,
    ):
        given = {"medplum": sink.base_url, "settings": end.settings(), "folder": folder}
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.pf_sync", "--child"],
            input=json.dumps(given).encode(),
            stdout=subprocess.PIPE,
            check=True,
        )
    measured: dict[str, float] = json.loads(child.stdout)
    return measured


def _child() -> None:
    """One run; its figures are written to standard output."""
    given = json.loads(sys.stdin.readline())
    settings = read_settings(given["settings"] | {"PF_RESOURCE_TYPES": "Patient,Observation"})
    login = connect_client(given["medplum"], "client", "secret")
    sync = Sync(settings, login, within=Surroundings(place=given["folder"]))
    began = time.perf_counter()
    number = totals(_counts(sync, Options()))["created"]
    seconds = time.perf_counter() - began
    peak = _peak_megabytes()
    sys.stdout.write(json.dumps({"peak": peak, "resources": number, "seconds": seconds}))


def _peak_megabytes() -> float:
    """The peak memory of this process. getrusage would include its parent's until the start of this one, too."""
    for line in Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MB


class _Sink:
    """The part of Medplum that a first run calls; it stores the sync's Task and nothing else."""

    def __init__(self) -> None:
        self._task: dict[str, Any] | None = None

    def app(self) -> Starlette:
        """The sink as an app."""
        return Starlette(
            routes=[
                Route("/oauth2/token", _token, methods=["POST"]),
                Route("/fhir/R4", _batch, methods=["POST"]),
                Route("/fhir/R4/Task", self._made, methods=["POST"]),
                Route("/fhir/R4/Task/{id}", self._put, methods=["PUT"]),
                Route("/fhir/R4/{type}", self._search, methods=["GET"]),
            ]
        )

    async def _made(self, request: Request) -> Response:
        return self._keep(await request.body(), "1", 201)

    async def _put(self, request: Request) -> Response:
        version = int(self._task["meta"]["versionId"]) if self._task else 0
        return self._keep(await request.body(), str(version + 1), 200)

    async def _search(self, request: Request) -> Response:
        found = [{"resource": self._task}] if request.path_params["type"] == "Task" and self._task else []
        return JSONResponse({"resourceType": "Bundle", "type": "searchset", "entry": found})

    def _keep(self, body: bytes, version: str, status: int) -> Response:
        self._task = orjson.loads(body) | {"id": "task", "meta": {"versionId": version}}
        return JSONResponse(self._task, status)


async def _token(_request: Request) -> Response:
    return JSONResponse({"access_token": "token", "expires_in": 3600})


async def _batch(request: Request) -> Response:
    number = len(orjson.loads(await request.body())["entry"])
    entries = [{"response": {"status": "201", "location": f"Observation/{uuid.uuid4()}"}} for _ in range(number)]
    return Response(orjson.dumps({"resourceType": "Bundle", "type": "batch-response", "entry": entries}))


def main() -> None:
    """From the command line, with other sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small-mb", type=int, default=100)
    parser.add_argument("--big-mb", type=int, default=2048)
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child()
    elif options.memory_only:
        Console().print(*_memory(options.small_mb, options.big_mb))
    else:
        run(Console(), small_mb=options.small_mb, big_mb=options.big_mb)


if __name__ == "__main__":
    main()
