"""A small export server written from the Bulk Data specification, whose every answer a test can replace.

It shares no code with the look-alike of Practice Fusion: what both the sync and that look-alike believe is tried here
against a second reading of https://hl7.org/fhir/uv/bulkdata/export.html. A rule of a test gets the request and the
answer that a well-behaved server would give, and returns the one that is sent.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox
from tests.bulk_sync.world import World, observation, patient

FHIR = "application/fhir+json"
RESOURCES = (patient("p1"), patient("p2"), observation("o1"), observation("o2", "Patient/p2"))


@dataclass(frozen=True)
class Asked:
    """One request; ``turn`` counts the requests with the same method and path, from 1."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    turn: int = 1


@dataclass(frozen=True)
class Reply:
    """One answer. ``cut``: the connection ends after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def with_json(self, value: Any, **changes: Any) -> Reply:
        """The answer with another body."""
        return replace(self, body=json.dumps(value).encode(), **changes)


Rule = Callable[[Asked, Reply], Reply]


class ExportServer:
    """One Group ``g1`` with these resources. ``rules`` are asked by the beginning of the path."""

    def __init__(self, *resources: Json) -> None:
        self.resources = list(resources)
        self.rules: list[tuple[str, str, Rule]] = []
        self.asked: list[Asked] = []
        self.exports: dict[str, Json] = {}
        self.clock = "2026-01-31T06:00:00.000Z"
        self.files: dict[str, list[bytes]] = {}  # the type's files, in place of one file of its resources
        self._turns: dict[tuple[str, str], int] = defaultdict(int)
        self._lock = threading.Lock()
        self._tokens = self._jobs = 0
        self.host = ""

    @property
    def base_url(self) -> str:
        """The FHIR base."""
        return f"http://{self.host}/fhir"

    def settings(self) -> dict[str, str]:
        """The settings for a sync of this source."""
        return {
            "PF_FHIR_BASE_URL": self.base_url,
            "PF_CLIENT_ID": "app",
            "PF_CLIENT_SECRET": "invented",
            "PF_GROUP_ID": "g1",
            "PF_RESOURCE_TYPES": "Patient,Observation,Condition",
        }

    def on(self, path: str, rule: Rule, method: str = "GET") -> None:
        """Let a rule answer requests whose path starts like this."""
        self.rules.append((method, path, rule))

    def kickoffs(self) -> list[dict[str, list[str]]]:
        """The parameters of each kick-off, whether by GET or by POST."""
        found = []
        for each in self.asked:
            if each.path.endswith("$export"):
                posted = json.loads(each.body)["parameter"] if each.method == "POST" else []
                query = dict(each.query)
                for one in posted:
                    value = next(value for name, value in one.items() if name.startswith("value"))
                    text = value["reference"] if isinstance(value, dict) else str(value)
                    query.setdefault(one["name"], []).append(text)
                found.append(query)
        return found

    # -- What a well-behaved server answers

    def answer(self, asked: Asked) -> Reply:
        """The answer, after the rules."""
        with self._lock:
            self._turns[asked.method, asked.path] += 1
            asked = replace(asked, turn=self._turns[asked.method, asked.path])
            self.asked.append(asked)
        reply = self._plain(asked)
        for method, path, rule in self.rules:
            if method == asked.method and asked.path.startswith(path):
                reply = rule(asked, reply)
        return reply

    def _plain(self, asked: Asked) -> Reply:
        parts = asked.path.strip("/").split("/")
        if asked.path.endswith("/.well-known/smart-configuration"):
            return _json({"token_endpoint": f"http://{self.host}/token"})
        if parts == ["token"]:
            self._tokens += 1
            return _json({"access_token": f"t{self._tokens}", "token_type": "bearer", "expires_in": 300})
        if parts[0] in ("fhir", "job", "file") and not asked.headers.get("authorization", "").startswith("Bearer t"):
            return Reply(401)
        if asked.path.endswith("$export"):
            return self._kickoff(asked)
        if parts[0] == "job":
            return self.job(asked, parts[1])
        if parts[0] == "file":
            return self._file(*parts[1:4])
        if parts == ["fhir", "metadata"]:
            return _json({"resourceType": "CapabilityStatement"})
        return self._read(asked, parts[1:]) if parts[0] == "fhir" and len(parts) > 1 else Reply(404)

    def _kickoff(self, asked: Asked) -> Reply:
        with self._lock:
            self._jobs += 1
            number = str(self._jobs)
            query = dict(asked.query)
            if asked.method == "POST":
                for each in json.loads(asked.body)["parameter"]:
                    value = next(value for name, value in each.items() if name.startswith("value"))
                    text = value["reference"].rpartition("/")[2] if isinstance(value, dict) else str(value)
                    query.setdefault(each["name"], []).append(text)
            self.exports[number] = query
        return Reply(202, headers={"Content-Location": f"http://{self.host}/job/{number}"})

    def job(self, asked: Asked, number: str) -> Reply:
        """The status of an export, or its deletion."""
        if number not in self.exports:
            return Reply(404)
        if asked.method == "DELETE":
            del self.exports[number]
            return Reply(202)
        output = [
            {
                "type": kind,
                "url": f"http://{self.host}/file/{number}/{kind}/{turn}",
                "count": sum(1 for line in file.split(b"\n") if line.strip()),
            }
            for kind in self._types(number)
            for turn, file in enumerate(self._files(number, kind))
        ]
        return _json(
            {
                "transactionTime": self.clock,
                "request": f"{self.base_url}/Group/g1/$export",
                "requiresAccessToken": True,
                "output": output,
                "error": [],
            }
        )

    def _types(self, number: str) -> list[str]:
        asked = ",".join(self.exports[number].get("_type", [])).split(",")
        return [kind for kind in asked if self._files(number, kind)]

    def _files(self, number: str, kind: str) -> list[bytes]:
        if kind in self.files:
            return self.files[kind]
        only = self.exports[number].get("patient")
        since = self.exports[number].get("_since", [""])[0]
        found = [
            each
            for each in self.resources
            if each["resourceType"] == kind
            and (only is None or {each["id"], _subject(each)} & set(only))
            and (each.get("meta", {}).get("lastUpdated", "") > since or not since)
        ]
        return [ndjson(*found)] if found else []

    def _file(self, number: str, kind: str, turn: str) -> Reply:
        if number not in self.exports:
            return Reply(404)
        whole = self._files(number, kind)[int(turn)]
        return Reply(200, whole, {"Content-Type": "application/fhir+ndjson"})

    def _read(self, asked: Asked, parts: list[str]) -> Reply:
        if parts[0] == "Group":
            members = [{"entity": {"reference": f"Patient/{each['id']}"}} for each in self._of("Patient")]
            group = {"resourceType": "Group", "id": "g1", "type": "person", "actual": True, "member": members}
            return _json(group)
        if len(parts) == 2:
            found = [each for each in self._of(parts[0]) if each["id"] == parts[1]]
            return _json(found[0]) if found else Reply(404)
        wanted = {text.rpartition("/")[2] for name in ("patient", "_id") for text in asked.query.get(name, [])}
        matches = [each for each in self._of(parts[0]) if {each["id"], _subject(each)} & wanted]
        entries = [{"resource": each, "search": {"mode": "match"}} for each in matches]
        return _json({"resourceType": "Bundle", "type": "searchset", "entry": entries})

    def _of(self, kind: str) -> list[Json]:
        return [each for each in self.resources if each["resourceType"] == kind]


def ndjson(*resources: Json) -> bytes:
    """One line for each resource."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in resources)


def _subject(resource: Json) -> str:
    return str(resource.get("subject", {}).get("reference", "")).rpartition("/")[2]


def _json(value: Json) -> Reply:
    return Reply(200, json.dumps(value).encode(), {"Content-Type": FHIR})


@contextmanager
def started(server: ExportServer) -> Iterator[ExportServer]:
    """The server on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            place = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, place.path, parse_qs(place.query), headers, self.rfile.read(length))
            reply = server.answer(asked)
            self.send_response_only(reply.status)
            given = {"Date": formatdate(usegmt=True), "Content-Length": str(len(reply.body))} | reply.headers
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[: reply.cut])
            if reply.cut is not None:
                self.close_connection = True

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_given: Any) -> None:
            """Nothing is logged."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # connections that wait on a busy machine

    with Server(("127.0.0.1", 0), Handler) as http:
        server.host = f"127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@contextmanager
def practice(*resources: Json) -> Iterator[tuple[World, ExportServer]]:
    """A Medplum, and a source with these resources."""
    with (
        MedplumSandbox(quota=100_000_000, auth_rate_limit=100_000) as medplum,
        started(ExportServer(*(resources or RESOURCES))) as source,
    ):
        yield World(medplum, source), source  # type: ignore[arg-type] # both have settings()
