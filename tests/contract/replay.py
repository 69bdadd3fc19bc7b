"""Replays one recorded scenario against a server and says, step by step, what differed.

The recordings and their format are described in the README beside them. How long to wait for the server's own work is
the server's affair (``Replayable``): the look-alike says when it is done, another server is given time.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from bot_layer.fhir.json import Json
from tests.contract.bot_host import PATIENCE, Call, RecordingBotHost
from tests.contract.placeholders import Bindings

RECORDED_HEADERS = (
    "Content-Type",
    "Location",
    "Content-Location",
    "ETag",
    "Last-Modified",
    "RateLimit",
    "Retry-After",
)
CONTRACT = Path(__file__).resolve().parents[3] / "shared" / "contract" / "medplum"
# Recorded by four clients in parallel; no server repeats it on request.
PROVOKED = "48-serialization-conflict"


class Replayable(Protocol):
    """What the replayer needs from the server besides HTTP."""

    @property
    def base_url(self) -> str:
        """``http://host:port``, no slash at the end."""
        ...

    def settle(self) -> None:
        """Wait until no work is under way, as far as the server reports it."""
        ...

    def again(self) -> bool:
        """Wait a little before a status is requested again; False once it has taken too long."""
        ...

    def deliver(self, event: Json | None, came: Callable[[], bool]) -> None:
        """Wait for the call of the bot host that the recording has next; for None, long enough to see that none comes.

        ``came`` says whether there is one already. A call by timer is recorded as one.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: only the headers that the recorder kept."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Given:
    """Created by the set-up of a scenario: the values of the first placeholders."""

    project: str
    client_id: str
    secret: str
    client_token: str
    owner_profile: str
    email: str
    plain_client_id: str = ""
    plain_client_token: str = ""

    def values(self, base_url: str, bot_host: str) -> dict[str, str]:
        """By placeholder."""
        given = {
            "base": base_url,
            "base-urlencoded": quote(base_url, safe=""),
            "host": urlsplit(base_url).netloc,
            "bot-host": bot_host,
            "project": self.project,
            "client-id": self.client_id,
            "secret": self.secret,
            "client-token": self.client_token,
            "client-basic": base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode(),
            "client-token-with-a-changed-signature": with_changed_signature(self.client_token),
            "owner-profile": self.owner_profile,
            "email": self.email,
        }
        if self.plain_client_id:
            given |= {"plain-client-id": self.plain_client_id, "plain-client-token": self.plain_client_token}
        return given


def with_changed_signature(token: str) -> str:
    """A token that looks right and is forged."""
    head, payload, signature = token.split(".")
    first = "A" if signature[0] != "A" else "B"
    return f"{head}.{payload}.{first}{signature[1:]}"


def read_scenario(path: Path) -> Json:
    """The recording in a file."""
    scenario: Json = json.loads(path.read_text(encoding="utf-8"))
    return scenario


@dataclass
class Replay:
    """One run of one scenario; ``problems`` has the differences by step."""

    scenario: Json
    server: Replayable
    host: RecordingBotHost
    bindings: Bindings
    seen: Callable[[Answer], None] = lambda _answer: None
    problems: dict[int, list[str]] = field(default_factory=dict)

    def run(self) -> dict[int, list[str]]:
        """The differences, by index of the step."""
        for index, step in enumerate(self.scenario["steps"]):
            if found := self.run_step(index, step):
                self.problems[index] = found
        self.server.settle()
        if left := self.host.calls_waiting() + self.host.unexpected:
            self.problems.setdefault(len(self.scenario["steps"]) - 1, []).append(f"{left} bot calls too many")
        return self.problems

    def run_step(self, index: int, step: Json) -> list[str]:
        """Sends the request and compares the answer and what the bot host got."""
        if "bot_answer" in step:
            self.host.plan(step["bot_answer"], held_until_step=step.get("bot_answer_held_until_step"))
        if step.get("poll"):
            self.server.settle()
        answer = send(self.server.base_url, step["request"], self.bindings)
        while step.get("poll") and answer.status != step["response"]["status"] and self.server.again():
            answer = send(self.server.base_url, step["request"], self.bindings)
        self.seen(answer)
        problems = self.compare_answer(step, answer)
        self.host.release(index)
        if "bot_event" in step:
            problems += self.compare_event(step)
        return problems

    def compare_answer(self, step: Json, answer: Answer) -> list[str]:
        """Status, recorded headers and body."""
        expected = step["response"]
        problems = [] if expected["status"] == answer.status else [f"status {expected['status']}: {answer.status}"]
        headers = dict(expected["headers"])
        if step.get("poll") and "RateLimit" in headers:
            headers["RateLimit"] = re.sub(r'("fhirInteractions";r=)\d+', r"\1<n>", headers["RateLimit"])
        body = parse(answer.body, as_text=expected.get("raw", False))
        # The body is compared first: it binds the version and the instant that ETag and Last-Modified repeat.
        if expected.get("trimmed"):
            body = self.bindings.trimmed(expected["body"], body)
        problems += self.bindings.compare(in_any_order(expected["body"]), in_any_order(body), "body")
        problems += self.bindings.compare(headers, answer.headers, "headers")
        return problems + compare_last_modified(answer.headers.get("Last-Modified"), body)

    def compare_event(self, step: Json) -> list[str]:
        """The calls to the bot host because of the step; none if the recording has none."""
        expected = step["bot_event"]
        if "bot_answer_held_until_step" not in step:
            self.server.deliver(expected, lambda: self.host.calls_waiting() > 0)
            self.host.forget_plans()
            if not self.host.calls_waiting():
                return [] if expected is None else ["bot_event: no call came"]
        call = self.host.next_call()
        if call is None:
            return ["bot_event: no call came"]
        if expected is None:
            return ["bot_event: a call came"]
        return self.compare_call(expected, call)

    def compare_call(self, expected: Json, call: Call) -> list[str]:
        """Method, path, every header and the body; header names in any case, as HTTP has them."""
        problems = self.bindings.compare(expected["path"], call.path, "bot_event.path")
        headers = {name.lower(): value for name, value in call.headers.items()}
        recorded = {name.lower(): value for name, value in expected["headers"].items()}
        problems += self.bindings.compare(expected["body"], call.body, "bot_event.body")
        return problems + self.bindings.compare(recorded, headers, "bot_event.headers")


def is_cron_event(event: Json) -> bool:
    """Whether the call came from the scheduler: its event has no requester, and the Bot itself as input."""
    body = event["body"]
    return "requester" not in body and body.get("input", {}).get("resourceType") == "Bot"


def send(base_url: str, request: Json, bindings: Bindings) -> Answer:
    """The answer to one recorded request, sent with the recorded headers and no others."""
    body = encode(bindings.fill_json(request["body"])) if "body" in request else b""
    connection = HTTPConnection(urlsplit(base_url).netloc, timeout=PATIENCE * 3)
    path = bindings.fill(request["path"], in_url=True)
    connection.putrequest(request["method"], path, skip_accept_encoding=True)
    connection.putheader("User-Agent", "contract-recorder")
    for name, value in request["headers"].items():
        connection.putheader(name, bindings.fill(value))
    if body or request["method"] in ("POST", "PUT"):
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    response = connection.getresponse()
    content = response.read()
    headers = {name: ", ".join(found) for name in RECORDED_HEADERS if (found := response.headers.get_all(name))}
    connection.close()
    return Answer(response.status, headers, content)


def encode(body: Any) -> bytes:
    """A JSON value as compact JSON; a string as it is."""
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def parse(content: bytes, *, as_text: bool) -> Any:
    """The JSON value of a body, its text where the recording kept text, ``""`` for zero bytes."""
    text = content.decode()
    if as_text or not text:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return f"not JSON: {text[:200]}"


def in_any_order(body: Any) -> Any:
    """The body, with what a search includes beside its matches sorted by identifier: FHIR gives it no order."""
    entries = body.get("entry") if isinstance(body, dict) and body.get("type") == "searchset" else None
    if not isinstance(entries, list):
        return body
    matches = [each for each in entries if each.get("search", {}).get("mode") != "include"]
    included = [each for each in entries if each.get("search", {}).get("mode") == "include"]
    if entries != matches + included:
        return body
    return body | {"entry": [*matches, *sorted(included, key=_identifiers)]}


def _identifiers(entry: Any) -> str:
    return json.dumps([entry["resource"].get("resourceType"), entry["resource"].get("identifier")], sort_keys=True)


def compare_last_modified(header: str | None, body: Any) -> list[str]:
    """``Last-Modified`` must be the resource's ``meta.lastUpdated``, to the second."""
    updated = body.get("meta", {}).get("lastUpdated") if isinstance(body, dict) else None
    if header is None or updated is None:
        return []
    expected = format_datetime(datetime.fromisoformat(updated), usegmt=True)
    return [] if header == expected else [f"headers.Last-Modified: expected {expected}, came {header}"]
