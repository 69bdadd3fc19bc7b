"""Calls of a relay: signed, fresh, new, and for the bot that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bot_layer.errors import AuthError
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.host import storage
from bot_layer.host.relay_calls import RelayCalls
from bot_layer.host.rules.relay_signature import Signature, read_signature, sign, verify
from tests.host.world import BOTS, TokenServer, bot_resource, envelope, hosted

NOW = 1_790_000_000.0
KEY = "test-key"
ECHO = {"reference": "Bot/b-3"}
SAY = {"resourceType": "Parameters", "parameter": [{"name": "say", "valueString": "hello"}]}


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    for number, name in enumerate(BOTS.handlers, start=1):
        server.login(f"token-{name}", bot_resource(f"b-{number}", f"test/{name}"))
    with server.server:
        yield server


def _call(medplum: TokenServer, bot: str = "echo", token: str = "token-echo", **signed: Any) -> tuple[int, Json]:
    body = json.dumps(envelope(medplum, token, SAY)).encode()
    with hosted(medplum, relay_key=KEY, now=lambda: NOW) as (client, _):
        return _send(client, bot, body, **signed)


def _send(client: Any, bot: str, body: bytes, **signed: Any) -> tuple[int, Json]:
    how: dict[str, Any] = {"key": KEY, "signed_for": bot, "at": int(NOW), "nonce": "nonce-0001"} | signed
    header = sign(how["key"], how["signed_for"], body, at=how["at"], nonce=how["nonce"])
    answer = client.post(f"/relay/{bot}", content=body, headers={"X-Bot-Signature": header})
    return answer.status_code, answer.json()


def _code(answer: Json) -> str:
    return outcomes.codes(answer["returnValue"]["parameter"][-1]["resource"])[0]


def test_a_signed_call_is_answered(medplum: TokenServer) -> None:
    """A relay's call is answered as Fission's."""
    status, answer = _call(medplum)
    assert status == 200
    assert answer["returnValue"]["parameter"] == [{"name": "heard", "valueString": "hello"}]


@pytest.mark.parametrize(
    ("signed", "code"),
    [
        ({"key": "another"}, "wrong-signature"),
        ({"signed_for": "refuse"}, "wrong-signature"),
        ({"at": int(NOW) - 301}, "stale-signature"),
        ({"at": int(NOW) + 301}, "stale-signature"),
        ({"nonce": "!"}, "unsigned"),
    ],
)
def test_other_calls_are_refused(medplum: TokenServer, signed: dict[str, Any], code: str) -> None:
    """Another key, another bot's signature, an old or future one, and none at all are 401; Medplum is not asked."""
    status, answer = _call(medplum, **signed)
    assert (status, _code(answer)) == (401, code)
    assert medplum.asked == []


def test_a_replay_is_refused(medplum: TokenServer) -> None:
    """The same call passes once."""
    body = json.dumps(envelope(medplum, "token-echo", SAY)).encode()
    with hosted(medplum, relay_key=KEY, now=lambda: NOW) as (client, _):
        assert _send(client, "echo", body)[0] == 200
        status, answer = _send(client, "echo", body)
        assert (status, _code(answer)) == (401, "replayed-call")
        assert _send(client, "echo", body, nonce="nonce-0002")[0] == 200


@pytest.mark.parametrize(
    ("bot", "token", "code"),
    [
        ("echo", "token-refuse", "wrong-bot"),
        ("nobody", "token-echo", "unknown-bot"),
        ("echo", "forged", "medplum-login-refused"),
    ],
)
def test_the_token_must_fit_the_bot(medplum: TokenServer, bot: str, token: str, code: str) -> None:
    """A good signature does not stand in for a token: it must act, and not as another bot."""
    status, answer = _call(medplum, bot, token)
    assert (status, answer["success"], _code(answer)) == (200, False, code)


def test_without_a_key_there_is_no_relay(medplum: TokenServer) -> None:
    """A host without a key has no such route."""
    with hosted(medplum) as (client, _):
        assert client.post("/relay/echo", content=b"{}").status_code == 404


def _signature(at: float, nonce: str = "nonce-0001") -> Signature:
    header = sign(KEY, "echo", b"{}", at=int(at), nonce=nonce)
    return verify(KEY, header, "echo", b"{}", now=at)


def test_the_memory_of_replays_ends_with_the_window() -> None:
    """A call that is too old to be accepted is forgotten; a newer one is not."""
    calls, first = RelayCalls(), _signature(NOW)
    calls.require_new(first, now=NOW)
    with pytest.raises(AuthError, match="came before"):
        calls.require_new(first, now=NOW + 300)
    calls.require_new(_signature(NOW + 301), now=NOW + 301)
    with pytest.raises(AuthError, match="older"):
        read_signature(sign(KEY, "echo", b"{}", at=int(NOW), nonce="nonce-0001"), now=NOW + 301)
    assert len(calls._seen) == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_copied_call_passes_neither_after_a_restart_nor_at_another_host(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The inbox's database keeps the calls of the last five minutes and then deletes them."""
    is_sqlite = database == "sqlite"
    url = f"sqlite:///{tmp_path / 'inbox.sqlite'}" if is_sqlite else str(request.getfixturevalue("postgres_url"))
    one, other, restarted = RelayCalls(url), RelayCalls(url), RelayCalls(url)
    one.require_new(_signature(NOW), now=NOW)
    other.require_new(_signature(NOW, "nonce-0002"), now=NOW)
    for calls in (other, restarted):
        with pytest.raises(AuthError, match="came before"):
            calls.require_new(_signature(NOW), now=NOW + 1)
    restarted.require_new(_signature(NOW + 400), now=NOW + 400)
    engine = storage.open_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM bot_relay_calls")).scalar_one() == 1
    engine.dispose()
    for calls in (one, other, restarted):
        calls.close()


def test_while_the_database_is_away_calls_pass_once_at_this_host(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, and the log reports it."""
    calls = RelayCalls(f"sqlite:///{tmp_path / 'missing' / 'inbox.sqlite'}")
    calls.require_new(_signature(NOW), now=NOW)
    with pytest.raises(AuthError, match="came before"):
        calls.require_new(_signature(NOW), now=NOW)
    assert "in memory alone" in caplog.text


def test_a_bot_gets_no_event_for_its_own_changes(medplum: TokenServer) -> None:
    """A Subscription's event whose author is the bot itself runs nothing: no loop without an end."""
    changed = {"resourceType": "Practitioner", "id": "p", "meta": {"author": {"reference": "Bot/b-3"}}}
    headers = {"X-Medplum-Subscription": "s", "X-Medplum-Interaction": "update"}
    own = envelope(medplum, "token-echo", changed, headers=headers)
    others = own | {"input": changed | {"meta": {"author": {"reference": "Practitioner/x"}}}}
    medplum.subscribe("Bot/b-3")
    medplum.add(others["input"])
    with hosted(medplum) as (client, _):
        assert _code(client.post("/bot-b-3", json=own).json()) == "own-change"
        assert client.post("/bot-b-3", json=others).json()["logResult"] == "INFO one line of log"
        called = client.post("/bot-b-3", json=own | {"headers": {"x-medplum-subscription": "s"}}).json()
    assert called["logResult"] == "INFO one line of log", "a call on purpose runs, whoever wrote last"


@pytest.mark.parametrize(
    "odd",
    [
        {"input": {"resourceType": "Practitioner", "meta": None}},
        {"input": {"resourceType": "Practitioner", "meta": {"author": "x"}}},
        {"input": ["x"]},
        {"bot": "x"},
        {"headers": ["X-Medplum-Subscription"]},
        {"headers": 7},
    ],
)
def test_an_envelope_of_wrong_types_is_answered_all_the_same(medplum: TokenServer, odd: Json) -> None:
    """A caller may send anything: the answer to an operation always has status 200."""
    headers = {"X-Medplum-Subscription": "s"}
    event = envelope(medplum, "token-echo", None, headers=headers) | odd
    with hosted(medplum) as (client, _):
        answer = client.post("/bot-b-3", json=event)
    assert answer.status_code == 200
    assert "returnValue" in answer.json()
