"""The host behind Medplum's Fission route."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.bot.declaration import Bot
from bot_layer.bot.handler import Handler
from bot_layer.errors import ConfigError
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json, encode
from bot_layer.host.host import HostSettings, app
from bot_layer.host.invoke import invoke
from bot_layer.host.listen import Corked
from bot_layer.host.rules.relay_signature import sign
from tests.host.world import BOTS, TokenServer, bot_resource, envelope, hosted

SAY = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "Grüße"}]}


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    for number, name in enumerate(BOTS.handlers, start=1):
        server.login(f"token-{name}", bot_resource(f"b-{number}", f"test/{name}"))
    with server.server:
        yield server


def _codes(answer: Json) -> list[str]:
    found: list[str] = []
    for entry in answer["returnValue"]["parameter"]:
        if entry["name"] == "outcome":
            found += outcomes.codes(entry["resource"])
    return found


def test_a_bot_is_found_by_the_identifier_that_its_own_token_shows(medplum: TokenServer) -> None:
    """The Bot id leads to the handler by the Bot's identifier; nothing is configured by raw id."""
    with hosted(medplum) as (client, _):
        answer = client.post("/bot-b-3", json=envelope(medplum, "token-echo", SAY))
    assert answer.status_code == 200
    assert answer.json() == {
        "returnValue": {"resourceType": "Parameters", "parameter": [{"name": "heard", "valueString": "Grüße"}]},
        "logResult": "INFO one line of log",
        "success": True,
    }


@pytest.mark.parametrize(
    ("name", "code", "success"),
    [("refuse", "contradiction", True), ("busy", "try-again-later", True), ("break", "internal-error", False)],
)
def test_every_exception_of_a_bot_becomes_an_answer(medplum: TokenServer, name: str, code: str, success: bool) -> None:
    """A stated failure is an answer; an unforeseen one too, and neither shows a value of the event."""
    number = list(BOTS.handlers).index(name) + 1
    with hosted(medplum) as (client, _):
        answer = client.post(f"/bot-b-{number}", json=envelope(medplum, f"token-{name}", SAY))
    assert answer.status_code == 200
    assert (_codes(answer.json()), answer.json()["success"]) == ([code], success)
    assert "Grüße" not in answer.text


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_not_an_envelope_is_400(medplum: TokenServer, body: bytes) -> None:
    """Only a request that is understood is answered with 200."""
    with hosted(medplum) as (client, _):
        assert client.post("/bot-b-3", content=body).status_code == 400


async def _stream(path: str, headers: list[tuple[bytes, bytes]], **settings: Any) -> tuple[int, int]:
    """The status for an endless body, and how many MB of it were read."""
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1024 * 1024, "more_body": read < 200}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    host = app(HostSettings(servers=("https://medplum.example.org",), bots=BOTS, relay_key="k", **settings))
    await host({"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}, receive, send)
    return sent[0]["status"], read


def _signed(at: float) -> tuple[bytes, bytes]:
    return (b"x-bot-signature", sign("k", "echo", b"other", at=int(at), nonce="nonce-0001").encode())


@pytest.mark.parametrize(
    ("path", "headers", "settings", "output"),
    [
        ("/bot-b-3", [], {}, (413, 2)),
        ("/bot-b-3", [], {"largest_body": 4 * 1024 * 1024}, (413, 5)),
        ("/bot-b-3", [(b"content-length", b"2000000000")], {}, (413, 1)),
        ("/relay/echo", [_signed(1000)], {"now": lambda: 1000.0}, (413, 2)),
        ("/relay/echo", [_signed(1000)], {"now": lambda: 2000.0}, (401, 0)),
        ("/relay/echo", [], {}, (401, 0)),
    ],
    ids=["limit", "raised-limit", "declared", "relay", "relay-old-signature", "relay-unsigned"],
)
def test_a_body_that_is_too_large_is_not_read_further(
    path: str, headers: list[tuple[bytes, bytes]], settings: dict[str, Any], output: tuple[int, int]
) -> None:
    """A body is read up to the limit, and a relay's body only if its header can be valid: anyone may send one."""
    assert asyncio.run(_stream(path, headers, **settings)) == output


def test_half_a_character_in_an_answer_spoils_it_alone(medplum: TokenServer) -> None:
    """JSON may contain half of a surrogate pair, which UTF-8 cannot encode: the answer is sent all the same."""
    half = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "a\ud83d"}]}
    body = json.dumps(envelope(medplum, "token-echo", half))
    with hosted(medplum) as (client, _):
        answer = client.post("/bot-b-3", content=body.encode())
    assert answer.status_code == 200
    assert answer.json()["returnValue"]["parameter"] == [{"name": "heard", "valueString": "a?"}]


def test_an_answer_that_is_no_json_is_a_failure_of_the_bot() -> None:
    """What can't be written as JSON would become a 500 without a reason, and on Lambda a stack trace."""
    bot = Handler(Bot("odd", "test/odd", "answers oddly"), lambda _event: {"at": object()})
    result = invoke(bot, {})
    assert (result.success, result.error and result.error.code) == (False, "internal-error")
    assert encode(result.return_value)


def test_a_setting_may_come_from_the_hosts_environment(medplum: TokenServer) -> None:
    """A declared setting that the project lacks is taken from the environment of the host."""
    with hosted(medplum, environ={"KEY": "k", "OTHER": "o"}) as (client, _):
        answer = client.post("/bot-b-3", json=envelope(medplum, "token-echo", SAY))
    assert {"name": "key", "valueString": "k"} in answer.json()["returnValue"]["parameter"]


def test_plain_http_elsewhere_is_refused() -> None:
    """``http://`` is used on this machine and in private networks only."""
    with pytest.raises(ConfigError):
        app(HostSettings(servers=("http://medplum.example.org",), bots=BOTS))


def test_healthz(medplum: TokenServer) -> None:
    """``/healthz`` answers without a token."""
    with hosted(medplum) as (client, _):
        assert client.get("/healthz").json() == {"ok": True, "bots": 4}


def test_head_and_body_leave_in_one_write() -> None:
    """Everything written in one turn of the loop is sent at once, and before the connection is closed."""

    class Recorder:
        def __init__(self) -> None:
            self.done: list[Any] = []

        def write(self, data: bytes) -> None:
            self.done.append(data)

        def close(self) -> None:
            self.done.append("closed")

    async def run() -> list[Any]:
        recorder = Recorder()
        corked = Corked(recorder, asyncio.get_running_loop())  # type: ignore[arg-type]  # what Corked uses of one
        corked.write(b"head ")
        corked.write(b"body")
        await asyncio.sleep(0)
        corked.write(b"last")
        corked.close()
        return recorder.done

    assert asyncio.run(run()) == [b"head body", b"last", "closed"]


def test_an_answer_arrives_in_one_piece(medplum: TokenServer) -> None:
    """Head and body of an answer come with the first read of a socket."""
    with hosted(medplum) as (_, server), socket.create_connection(("127.0.0.1", server.port)) as raw:
        for _ in range(20):
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            assert raw.recv(65536).endswith(b'{"ok":true,"bots":4}')
