"""How fast a first and an unchanged sync are, against conditional PUTs and against plain POSTs, end to end.

On the server of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET (a project whose quota is raised), else
on the look-alike, paced as a Medplum 5.1.13 on two cores. Both ends run in processes of their own. Each way has records
of its own; of several rounds, the second of which has the ways in the opposite order, the best of each way counts.

BENCH_PATIENTS: about 45 resources each. BENCH_ROUNDS. BENCH_LATENCY_MS: how far away Medplum is, several joined by
commas. BENCH_AT_ONCE: how many batches of POSTs at once, joined by commas. BENCH_ENTRY_MS: what an entry takes on the
look-alike; on a busy machine a large one keeps the ratios true.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Final

import httpx
import orjson
import requests
from carebundle import generate_cohort, to_ndjson
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.run_state import totals
from bot_layer.bulk_sync.rules.settings import read_settings
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches
from medplum_sandbox.server import Server

_PATIENTS: Final = int(os.environ.get("BENCH_PATIENTS", "40"))
_ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "1"))
_AT_ONCE: Final = [int(each) for each in os.environ.get("BENCH_AT_ONCE", "1,4").split(",")]
_ENTRY_SECONDS: Final = float(os.environ.get("BENCH_ENTRY_MS", "7.4")) / 1000
_SYSTEM: Final = "https://source.example/id"
_CORES: Final = 2
_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_PORT_HEADERS: Final = ("authorization", "content-type", "if-match", "if-none-exist", "accept", "x-medplum")
_POSTS: Final = "POSTs in batches of 100"
_PUTS: Final = "conditional PUTs in batches of 100"
_FIRST: Final = "pf-sync, first run"
_SEEDS: Final = count(int(time.time()))


@dataclass(frozen=True)
class _Login:
    """A server, and who logs in."""

    base_url: str
    client_id: str
    client_secret: str

    def session(self) -> requests.Session:
        """Plain requests, which share no code with the measured sync."""
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        made = requests.Session()
        token = made.post(f"{self.base_url}/oauth2/token", data=form, timeout=60).json()["access_token"]
        made.headers.update({"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"})
        return made


@dataclass(frozen=True)
class _Row:
    """What became of the records of one way."""

    way: str
    number: int
    seconds: float
    lost: int
    again: int = 0

    @property
    def speed(self) -> float:
        """Resources a second."""
        return self.number / self.seconds


def run(console: Console) -> None:
    """Print resources per second, and lost resources, for each way."""
    base_url = os.environ.get("MEDPLUM_BASE_URL", "").rstrip("/")
    distances = os.environ.get("BENCH_LATENCY_MS", "0" if base_url else "0,50")
    for latency in (float(each) / 1000 for each in distances.split(",")):
        real = (base_url, os.environ["MEDPLUM_CLIENT_ID"], os.environ["MEDPLUM_CLIENT_SECRET"]) if base_url else None
        with _another_process(_serve_medplum, real, latency) as given:
            where = f"{base_url or 'the look-alike'}, {latency * 1000:.0f} ms away"
            console.print(_table(_measured(_Login(*given)), where))


def _measured(login: _Login) -> list[_Row]:
    """The best row of each way."""
    ways: list[Callable[[], Iterator[_Row]]] = [
        lambda: _batches(login, _PUTS, _put, 1),
        lambda: _batches(login, _PUTS, _put, 4),
        *(partial(_batches, login, _POSTS, _post, at_once) for at_once in _AT_ONCE),
        lambda: _ours(login),
    ]
    best: dict[str, _Row] = {}
    for number in range(_ROUNDS):
        for way in ways if number % 2 == 0 else reversed(ways):
            for row in way():
                if row.way not in best or row.speed > best[row.way].speed:
                    best[row.way] = row
    return sorted(best.values(), key=lambda row: (not row.way.startswith("conditional"), row.way.startswith("pf-sync")))


def _table(rows: list[_Row], where: str) -> Table:
    title = f"Bulk sync into {where} (load {os.getloadavg()[0]:.1f}, best of {_ROUNDS})"
    table = Table(
        "way", "resources", "a second", "not written", "of POSTs", "of PUTs, one after the other", title=title
    )
    posts = max(row.speed for row in rows if row.way.startswith(_POSTS))
    puts = {
        unchanged: next(row.speed for row in rows if row.way.startswith(f"{_PUTS}, 1") and _is_again(row) == unchanged)
        for unchanged in (False, True)
    }
    for row in rows:
        again = f", {row.again} written twice" if row.again else ""
        of_posts = "" if _is_again(row) else f"{row.speed / posts:.2f}"
        of_puts = f"{row.speed / puts[_is_again(row)]:.2f}"
        table.add_row(row.way, f"{row.number}{again}", f"{row.speed:.0f}", str(row.lost), of_posts, of_puts)
    return table


def _is_again(row: _Row) -> bool:
    return row.way.endswith("unchanged")


def _records() -> list[bytes]:
    """Third-party resources: patients with their records."""
    found = to_ndjson(generate_cohort(count=_PATIENTS, seed=next(_SEEDS))).values()
    return [line.encode() if isinstance(line, str) else line for lines in found for line in lines.splitlines()]


# -- By plain batches


def _put(resource: dict[str, object]) -> dict[str, object]:
    mark = {"system": _SYSTEM, "value": resource["id"]}
    given = resource.get("identifier")
    known = {name: value for name, value in resource.items() if name != "id"}
    identifier = [*(given if isinstance(given, list) else []), mark]
    url = f"{resource['resourceType']}?identifier={_SYSTEM}|{resource['id']}"
    return {"request": {"method": "PUT", "url": url}, "resource": {**known, "identifier": identifier}}


def _post(resource: dict[str, object]) -> dict[str, object]:
    return {**_put(resource), "request": {"method": "POST", "url": resource["resourceType"]}}


def _batches(
    login: _Login, name: str, entry: Callable[[dict[str, object]], dict[str, object]], at_once: int
) -> Iterator[_Row]:
    """A first time, and again if the way supports it."""
    session = login.session()
    lines = _records()

    def send(some: list[bytes]) -> int:
        entries = [entry(orjson.loads(each)) for each in some]
        body = orjson.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries})
        answer = session.post(f"{login.base_url}/fhir/R4", data=body, timeout=900)
        said = [str(each["response"]["status"]) for each in answer.json().get("entry", [])] if answer.ok else []
        written: int = sum(each.startswith("20") for each in said)
        return len(some) - written

    for again in ("", ", unchanged") if entry is _put and at_once == 1 else ("",):
        began = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            lost = sum(pool.map(send, [lines[start : start + 100] for start in range(0, len(lines), 100)]))
        yield _Row(f"{name}, {at_once} at once{again}", len(lines), time.perf_counter() - began, lost)


# -- By the sync


def _ours(login: _Login) -> Iterator[_Row]:
    with (
        _another_process(_serve_source, _records()) as settings,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as empty,
    ):
        runs = (
            (_FIRST, Options(), folder),
            ("pf-sync, the source sends all again, unchanged", Options(since="1999-01-01T00:00:00Z"), folder),
            ("pf-sync --full, each compared with Medplum, unchanged", Options(full=True), folder),
            ("pf-sync --full whose map was lost, unchanged", Options(full=True), empty),
        )
        for name, options, place in runs:
            mine = connect_client(login.base_url, login.client_id, login.client_secret)
            began = time.perf_counter()
            sync = Sync(read_settings(settings), mine, within=Surroundings(place=place))
            done = sync.run(options).run
            seconds = time.perf_counter() - began
            sync.map.close()
            if done is None:
                raise AssertionError("there was a run")
            counts = totals(done.counts)
            written = counts["created"] + counts["unchanged"]
            yield _Row(name, counts["seen"], seconds, counts["seen"] - written, done.repaired)


# -- Both ends


@contextmanager
def _another_process(serve: Callable[..., None], *given: object) -> Iterator[Any]:
    """What a process reports once it serves; it ends with the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=serve, args=(there, *given), daemon=True)
    child.start()
    try:
        yield here.recv()
    finally:
        here.send("end")
        child.join(30)
        child.kill()


def _serve_source(pipe: Connection, lines: list[bytes]) -> None:
    source = Source()
    for line in lines:
        source.add(orjson.loads(line), at=_START)
    source.groups["everybody"] = dict.fromkeys(source.entries["Patient"], _START)
    with PracticeFusionSandbox(source, switches=Switches.general(polls=0)) as end:
        pipe.send(end.settings())
        pipe.recv()


def _serve_medplum(pipe: Connection, real: tuple[str, str, str] | None, latency: float) -> None:
    """The real server with the requested latency; or the look-alike, paced."""
    if real is not None:
        with Server(_Proxy(real[0], latency, 0.0).app()) as server:
            pipe.send((server.base_url if latency else real[0], *real[1:]))
            pipe.recv()
        return
    with (
        MedplumSandbox(quota=10**9, auth_rate_limit=10**6) as medplum,
        Server(_Proxy(medplum.base_url, latency + 0.005, _ENTRY_SECONDS).app()) as server,
    ):
        pipe.send((server.base_url, medplum.client_id, medplum.client_secret))
        pipe.recv()


class _Proxy:
    """A proxy in front of Medplum, which delays each request, and each entry of a batch as if on one core.

    A conditional entry blocks others: the real server's conflicts cost as much.
    """

    def __init__(self, target: str, latency: float, entry_seconds: float) -> None:
        self._target, self._latency, self._entry_seconds = target, latency, entry_seconds
        self._cores = asyncio.Semaphore(_CORES)
        self._alone = asyncio.Lock()
        self._client = httpx.AsyncClient(timeout=900)

    def app(self) -> Starlette:
        """The proxy as an app."""
        methods = ["GET", "POST", "PUT", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self._forward, methods=methods)])

    async def _forward(self, request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(self._latency)
        is_batch = self._entry_seconds and request.method == "POST" and request.url.path == "/fhir/R4"
        batch = orjson.loads(body).get("entry", []) if is_batch else []
        if any("?" in each["request"]["url"] for each in batch):
            async with self._alone:
                return await self._work(request, body, len(batch))
        return await self._work(request, body, len(batch))

    async def _work(self, request: Request, body: bytes, entries: int) -> Response:
        if not entries:
            return await self._answer(request, body)
        async with self._cores:
            answer, _ = await asyncio.gather(self._answer(request, body), asyncio.sleep(entries * self._entry_seconds))
            return answer

    async def _answer(self, request: Request, body: bytes) -> Response:
        headers = {name: value for name, value in request.headers.items() if name in _PORT_HEADERS}
        url = f"{self._target}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        answer = await self._client.request(request.method, url, content=body, headers=headers)
        return Response(answer.content, answer.status_code, {"Content-Type": answer.headers.get("content-type", "")})
