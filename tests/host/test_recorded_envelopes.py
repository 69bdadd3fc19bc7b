"""The envelopes that a real Medplum server sent, fed to the host as they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import Bot, Setting, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from tests.host.world import TokenServer, bot_resource, hosted

pytestmark = pytest.mark.no_cover  # one way through the host, with a hundred events

CONTRACT = Path(__file__).resolve().parents[2].parent / "shared" / "contract" / "medplum"
HEADERS_OF_THE_CONNECTION = {"host", "content-length", "connection", "accept-encoding"}


def _describe(event: Event) -> Json:
    """What the handler was given, in short."""
    given = event.input
    kind = given.get("resourceType", "object") if isinstance(given, dict) else type(given).__name__
    return parameters.build(
        parameters.string(
            "kind", "deletedResource" if isinstance(given, dict) and "deletedResource" in given else kind
        ),
        parameters.string("interaction", event.interaction),
        parameters.string("from", "cron" if event.from_cron else event.requester),
        parameters.string("secrets", ",".join(sorted(event.secrets))),
    )


TELLER = Handler(
    Bot(
        "teller",
        "test/teller",
        "tells",
        settings=(Setting("KEY", "k"), Setting("COUNT", "n")),
        watches=(Watch("Practitioner"),),
    ),
    _describe,
)
BOTS = Collection({"teller": TELLER})


def _recorded() -> Iterator[tuple[str, Json]]:
    for path in sorted(CONTRACT.glob("[5-9][0-9]-*.json")):
        for number, step in enumerate(json.loads(path.read_text())["steps"]):
            event = step.get("bot_event")
            if event and event["path"].startswith("/bot-") and isinstance(event["body"], dict):
                yield f"{path.stem}-{number}", event


RECORDED = dict(_recorded())


@pytest.fixture(scope="module")
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    with server.server:
        yield server


def _bound(value: Any, base_url: str) -> Any:
    """The recorded value with the sandbox's address; every other placeholder becomes a plain text of its own."""
    text = json.dumps(value).replace("<base>", base_url)
    return json.loads(re.sub(r"<(bot|token|id|trace-id|client-token)[:-]?([a-z0-9-]*)>", r"\1-\2", text))


def _store(medplum: TokenServer, body: Json) -> None:
    """Store the Subscription that the event names, and the resource that it changed, as the real server had them."""
    headers, given = body.get("headers", {}), body["input"]
    if "X-Medplum-Subscription" not in headers:
        return
    changed = given.get("deletedResource", given)
    medplum.resources.pop(f"{changed['resourceType']}/{changed['id']}", None)
    if "deletedResource" not in given:
        medplum.add(changed)
    channel = {"type": "rest-hook", "endpoint": body["bot"]["reference"]}
    subscription = {"resourceType": "Subscription", "criteria": changed["resourceType"], "channel": channel}
    medplum.add(subscription | {"id": headers["X-Medplum-Subscription"]})


@pytest.mark.skipif(not CONTRACT.is_dir(), reason="the recorded contract is not beside this project")
def test_there_are_recorded_envelopes() -> None:
    """Operations, $execute, Subscriptions (also of deletes) and cron were recorded."""
    assert len(RECORDED) > 50


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_envelope_is_answered(medplum: TokenServer, name: str) -> None:
    """Each is understood and answered with 200 and the three keys that Medplum reads; its handler gets its input."""
    event = _bound(RECORDED[name], medplum.server.base_url)
    body = event["body"]
    bot_id = event["path"].removeprefix("/bot-")
    body["accessToken"] = medplum.login(bot_id, bot_resource(bot_id, "test/teller"))
    _store(medplum, body)
    headers = {key: value for key, value in event["headers"].items() if key.lower() not in HEADERS_OF_THE_CONNECTION}
    with hosted(medplum, bots=BOTS) as (client, _):
        answer = client.post(event["path"], content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code == 200
    result = answer.json()
    assert sorted(result) == ["logResult", "returnValue", "success"]
    assert result["success"] is True, result
    seen = result["returnValue"]
    is_cron = "requester" not in body
    assert parameters.one(seen, "from") == ("cron" if is_cron else body["requester"]["reference"])
    sent = {key.lower(): value for key, value in body.get("headers", {}).items()}
    assert parameters.one(seen, "interaction") == sent.get("x-medplum-interaction")
    given = body["input"]
    if isinstance(given, dict) and "deletedResource" in given:
        assert parameters.one(seen, "kind") == "deletedResource"
    declared = {name for name in ("KEY", "COUNT") if name in body["secrets"]}
    assert set(filter(None, (parameters.one(seen, "secrets") or "").split(","))) == declared
