"""How fast a first and an unchanged sync are, against conditional PUTs and against plain POSTs, end to end.

On the server of MEDPLUM_BASE_URL, MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET (a project whose quota is raised), else
on the look-alike behind a proxy that takes as long for an entry as a Medplum 5.1.13 does. BENCH_PATIENTS sets the size.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

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

from bot_layer.bulk_sync.engine import Options
from bot_layer.bulk_sync.rules.run_state import totals
from bot_layer.bulk_sync.rules.settings import read_settings
from bot_layer.bulk_sync.setup import Surroundings, make_sync
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Source, Switches
from medplum_sandbox.server import Server

_PATIENTS = int(os.environ.get("BENCH_PATIENTS", "40"))  # about 45 resources each
_SYSTEM = "https://source.example/id"
_ENTRY_SECONDS = 0.0074  # one entry of a batch on Medplum 5.1.13, on two cores
_CORES = 2
_START = datetime(2024, 1, 1, tzinfo=UTC)
_PORT_HEADERS = ("authorization", "content-type", "if-match", "if-none-exist", "accept", "x-medplum")


@dataclass(frozen=True)
class _Login:
    """A server, and who logs in."""

    base_url: str
    client_id: str
    client_secret: str

    def session(self) -> requests.Session:
        """Plain requests, which share no code with what is measured."""
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        made = requests.Session()
        token = made.post(f"{self.base_url}/oauth2/token", data=form, timeout=60).json()["access_token"]
        made.headers.update({"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"})
        return made


def run(console: Console) -> None:
    """Print resources a second, and what was lost, each way with records of its own."""
    if base_url := os.environ.get("MEDPLUM_BASE_URL", "").rstrip("/"):
        login = _Login(base_url, os.environ["MEDPLUM_CLIENT_ID"], os.environ["MEDPLUM_CLIENT_SECRET"])
        console.print(_table(login, base_url))
        return
    with MedplumSandbox(quota=10**9, auth_rate_limit=10**6) as medplum:
        for latency in (0.0, 0.05):
            with Server(_Paced(medplum.base_url, latency).app()) as server:
                login = _Login(server.base_url, medplum.client_id, medplum.client_secret)
                console.print(_table(login, f"the look-alike, {latency * 1000:.0f} ms away"))


def _table(login: _Login, where: str) -> Table:
    load = os.getloadavg()[0]
    table = Table(
        "way", "resources", "resources a second", "not written", title=f"Bulk sync into {where} (load {load:.1f})"
    )
    seed = int(time.time())
    ways: dict[str, Callable[[list[bytes]], tuple[float, int]]] = {
        "conditional PUTs in batches of 100, one after the other": lambda lines: _batches(login, lines, _put, 1),
        "conditional PUTs in batches of 100, 4 at once": lambda lines: _batches(login, lines, _put, 4),
        "POSTs in batches of 100, one after the other": lambda lines: _batches(login, lines, _post, 1),
        "POSTs in batches of 100, 4 at once": lambda lines: _batches(login, lines, _post, 4),
    }
    for number, (name, way) in enumerate(ways.items()):
        lines = _records(seed + number)
        seconds, lost = way(lines)
        table.add_row(name, str(len(lines)), f"{len(lines) / seconds:.0f}", str(lost))
        if number == 0:
            seconds, lost = way(lines)
            table.add_row("the same again, unchanged", str(len(lines)), f"{len(lines) / seconds:.0f}", str(lost))
    for row in _ours(login, _records(seed + 10)):
        table.add_row(*row)
    return table


def _records(seed: int) -> list[bytes]:
    """Resources that nobody here wrote: patients with their records."""
    found = to_ndjson(generate_cohort(count=_PATIENTS, seed=seed)).values()
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
    login: _Login, lines: list[bytes], entry: Callable[[dict[str, object]], dict[str, object]], at_once: int
) -> tuple[float, int]:
    """Seconds, and how many entries were not written."""
    session = login.session()

    def send(some: list[bytes]) -> int:
        entries = [entry(orjson.loads(each)) for each in some]
        body = orjson.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries})
        answer = session.post(f"{login.base_url}/fhir/R4", data=body, timeout=300)
        said = [str(each["response"]["status"]) for each in answer.json().get("entry", [])] if answer.ok else []
        written: int = sum(each.startswith("20") for each in said)
        return len(some) - written

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        lost = sum(pool.map(send, [lines[start : start + 100] for start in range(0, len(lines), 100)]))
    return time.perf_counter() - began, lost


# -- By the sync


def _ours(login: _Login, lines: list[bytes]) -> Iterator[tuple[str, str, str, str]]:
    source = Source()
    for line in lines:
        source.add(orjson.loads(line), at=_START)
    source.groups["everybody"] = dict.fromkeys(source.entries["Patient"], _START)
    with (
        PracticeFusionSandbox(source, switches=Switches.general(polls=0)) as end,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, options in (("pf-sync, first run", Options()), ("pf-sync --full, unchanged", Options(full=True))):
            mine = connect_client(login.base_url, login.client_id, login.client_secret)
            sync = make_sync(read_settings(end.settings()), mine, within=Surroundings(place=folder))
            began = time.perf_counter()
            done = sync.run(options).run
            seconds = time.perf_counter() - began
            sync.map.close()
            if done is None:
                raise AssertionError("there was a run")
            counts = totals(done.counts)
            written = counts["created"] + counts["unchanged"]
            again = f", {done.repaired} written twice" if done.repaired else ""
            yield name, f"{counts['seen']}{again}", f"{counts['seen'] / seconds:.0f}", str(len(lines) - written)


# -- The look-alike, as slow as a real server


class _Paced:
    """A proxy before the look-alike. A conditional entry keeps others out: the real server's conflicts cost as much."""

    def __init__(self, target: str, latency: float) -> None:
        self._target, self._latency = target, latency
        self._cores = asyncio.Semaphore(_CORES)
        self._alone = asyncio.Lock()
        self._client = httpx.AsyncClient(timeout=300)

    def app(self) -> Starlette:
        """The proxy as an app."""
        methods = ["GET", "POST", "PUT", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self._forward, methods=methods)])

    async def _forward(self, request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(self._latency + 0.005)
        batch = (
            orjson.loads(body).get("entry", []) if request.method == "POST" and request.url.path == "/fhir/R4" else []
        )
        if any("?" in each["request"]["url"] for each in batch):
            async with self._alone:
                await self._work(len(batch))
        elif batch:
            await self._work(len(batch))
        headers = {name: value for name, value in request.headers.items() if name in _PORT_HEADERS}
        url = f"{self._target}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        answer = await self._client.request(request.method, url, content=body, headers=headers)
        return Response(answer.content, answer.status_code, {"Content-Type": answer.headers.get("content-type", "")})

    async def _work(self, entries: int) -> None:
        async with self._cores:
            await asyncio.sleep(entries * _ENTRY_SECONDS)
