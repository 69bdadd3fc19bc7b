"""Who may call a bot, and what the host trusts in a Subscription's event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.bot.collection import Collection, load
from bot_layer.bot.declaration import Bot, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from tests.host.world import TokenServer, bot_resource, envelope, hosted

SAY = {"resourceType": "Parameters", "parameter": []}
CHANGED = {"resourceType": "Practitioner", "id": "p", "meta": {"versionId": "1"}, "active": False}
STORED = CHANGED | {"meta": {"versionId": "2"}, "active": True}


def _describe(event: Event) -> Json:
    given = event.input if isinstance(event.input, dict) else {}
    return parameters.build(
        parameters.string("version", given.get("meta", {}).get("versionId")),
        parameters.boolean("deleted", "deletedResource" in given),
        parameters.string("interaction", event.interaction),
    )


OPEN = Handler(Bot("open", "test/open", "tells", watches=(Watch("Practitioner"),)), _describe)
CLOSED = Handler(Bot("closed", "test/closed", "tells", requesters=""), _describe)
BOTS = Collection({"open": OPEN, "closed": CLOSED})


@pytest.fixture
def medplum() -> Iterator[TokenServer]:
    server = TokenServer()
    server.login("open", bot_resource("b-1", "test/open"))
    server.login("closed", bot_resource("b-2", "test/closed"))
    with server.server:
        yield server


def _codes(answer: Json) -> list[str]:
    found = [each["resource"] for each in answer["returnValue"]["parameter"] if each["name"] == "outcome"]
    return [code for outcome in found for code in outcomes.codes(outcome)]


def _call(medplum: TokenServer, name: str, environ: dict[str, str] | None = None, **more: Any) -> Json:
    event = envelope(medplum, name, SAY) | more
    with hosted(medplum, bots=BOTS, environ=environ or {}) as (client, _):
        answer: Json = client.post(f"/{event['bot']['reference'].replace('Bot/', 'bot-')}", json=event).json()
    return answer


def _secret(name: str, value: str) -> Json:
    return {"secrets": {name: {"name": name, "valueString": value}}}


@pytest.mark.parametrize(
    ("allowed", "requester", "may"),
    [
        ("ClientApplication/c", "ClientApplication/c", True),
        ("ClientApplication/c", "ClientApplication/d", False),
        ("ClientApplication", "ClientApplication/d", True),
        ("Practitioner, ClientApplication/c", "Practitioner/p", True),
        ("Practitioner ClientApplication/c", "Patient/p", False),
        ("*", "Patient/p", True),
        ("*", None, True),
        ("Practitioner", None, False),
        ("practitioner", "Practitioner/p", False),
        ("Practitioner/", "Practitioner/p", False),
        ("Practitioner/..", "Practitioner/..", False),
    ],
)
@pytest.mark.parametrize("name", ["open", "closed"])
def test_a_setting_says_who_may_call(
    medplum: TokenServer, name: str, allowed: str, requester: str | None, may: bool
) -> None:
    """References, types or ``*``; any other value is an error, and then no caller is admitted."""
    caller = {"requester": {"reference": requester}} if requester else {"requester": {}}
    answer = _call(medplum, name, **_secret(f"{name.upper()}_REQUESTERS", allowed), **caller)
    assert (_codes(answer) == []) is may
    assert set(_codes(answer)) <= {"caller-not-allowed", "invalid-setting"}


@pytest.mark.parametrize(("name", "codes"), [("open", []), ("closed", ["caller-not-allowed"])])
def test_an_unset_setting_means_what_the_bot_declares(medplum: TokenServer, name: str, codes: list[str]) -> None:
    """Either every caller that Medplum admits, or none."""
    assert _codes(_call(medplum, name)) == codes


def test_only_federated_documents_is_closed_until_it_is_set() -> None:
    """It gives out any patient's documents. Every bot has the setting, so that deploy_bots.py can set it."""
    bots = [handler.bot for handler in load()]
    assert [bot.name for bot in bots if not bot.requesters] == ["federated-documents"]
    assert all(bot.requesters_setting in {setting.name for setting in bot.settings} for bot in bots)
    assert load().named("register-patient").bot.requesters_setting == "REGISTER_PATIENT_REQUESTERS"


def test_the_hosts_environment_wins_over_the_projects_secret(medplum: TokenServer) -> None:
    """If the host's operator set who may call, a project secret cannot change it."""
    secret = _secret("OPEN_REQUESTERS", "*")
    assert _codes(_call(medplum, "open", {"OPEN_REQUESTERS": "Patient"}, **secret)) == ["caller-not-allowed"]


def test_the_hosts_own_login_may_always_call(medplum: TokenServer) -> None:
    """A later run returns through Medplum as a call of that login."""
    own = {"requester": {"reference": "ClientApplication/own"}}
    assert _codes(_call(medplum, "closed", {"MEDPLUM_CLIENT_ID": "own"}, **own)) == []
    assert _codes(_call(medplum, "closed", {"MEDPLUM_CLIENT_ID": "another"}, **own)) == ["caller-not-allowed"]


def test_a_timer_is_no_caller_and_nobody_passes_for_one(medplum: TokenServer) -> None:
    """A timer's event has the Bot itself as input and neither requester nor headers; Medplum names every caller."""
    bot = bot_resource("b-2", "test/closed")
    timer = {"input": bot, "requester": None, "headers": None}
    assert _codes(_call(medplum, "closed", **timer)) == []
    for pretended in (
        timer | {"requester": {"reference": "Practitioner/p"}},
        timer | {"headers": {"content-type": "x"}},
        timer | {"input": bot | {"id": "b-1"}},
        timer | {"input": SAY},
    ):
        assert _codes(_call(medplum, "closed", **pretended)) == ["caller-not-allowed"], pretended


def _event(medplum: TokenServer, name: str = "open", given: Any = CHANGED, **headers: str) -> Json:
    sent = {"X-Medplum-Subscription": "s", "X-Medplum-Interaction": "update"} | headers
    return _call(medplum, name, input=given, headers=sent)


def test_a_subscriptions_event_runs_on_the_resource_as_it_is_now(medplum: TokenServer) -> None:
    """The content of the event is not trusted: the resource is read again."""
    medplum.subscribe("Bot/b-1")
    medplum.add(STORED)
    assert parameters.one(_event(medplum)["returnValue"], "version") == "2"


def test_a_header_alone_makes_no_event(medplum: TokenServer) -> None:
    """The Subscription must exist, name this Bot, and be about this type."""
    medplum.add(STORED)
    assert _codes(_event(medplum)) == ["unknown-subscription"]
    medplum.subscribe("Bot/b-2")
    assert _codes(_event(medplum)) == ["unknown-subscription"]
    medplum.subscribe("Bot/b-1", criteria="Patient?active=true")
    assert _codes(_event(medplum)) == ["unknown-subscription"]
    for odd in ("..", "", "s/../s"):
        assert _codes(_event(medplum, **{"X-Medplum-Subscription": odd})) == ["unknown-subscription"]
    medplum.subscribe("Bot/b-1", criteria="Practitioner?active=true")
    assert _codes(_event(medplum)) == []


def test_a_bot_without_subscriptions_takes_no_events(medplum: TokenServer) -> None:
    """The event is refused although a Subscription names the bot: an event has no caller that could be checked."""
    medplum.subscribe("Bot/b-2")
    medplum.add(STORED)
    assert _codes(_event(medplum, "closed")) == ["no-subscription"]


def test_a_callers_own_header_makes_a_call(medplum: TokenServer) -> None:
    """Medplum writes a caller's headers in lower case: such a call has a caller, who is checked."""
    medplum.subscribe("Bot/b-2")
    answer = _call(medplum, "closed", headers={"x-medplum-subscription": "s"})
    assert _codes(answer) == ["caller-not-allowed"]


def test_a_deletion_is_accepted_once_the_resource_is_deleted(medplum: TokenServer) -> None:
    """If the resource exists, it was not deleted or was restored, so nothing is done.

    A deleted one has no other event.
    """
    medplum.subscribe("Bot/b-1")
    assert _codes(_event(medplum)) == ["resource-gone"]
    deleted = _event(medplum, given={"deletedResource": CHANGED})
    assert parameters.one(deleted["returnValue"], "deleted") is True
    medplum.add(STORED)
    assert _codes(_event(medplum, given={"deletedResource": CHANGED})) == ["resource-gone"]


@pytest.mark.parametrize("given", [None, [], "x", {}, {"deletedResource": []}, {"resourceType": "Patient", "id": ".."}])
def test_an_event_without_a_stored_resource_is_refused(medplum: TokenServer, given: Any) -> None:
    """Whatever is sent as a resource, nothing but an id of FHIR's form gets into a request."""
    medplum.subscribe("Bot/b-1")
    assert _codes(_event(medplum, given=given)) == ["no-target"]


def test_a_subscription_is_read_once_in_five_minutes(medplum: TokenServer) -> None:
    """Events cost one request more than the resource itself, and only now and then."""
    medplum.subscribe("Bot/b-1")
    medplum.add(STORED)
    event = envelope(medplum, "open", CHANGED, headers={"X-Medplum-Subscription": "s"})
    with hosted(medplum, bots=BOTS) as (client, _):
        for _ in range(3):
            client.post("/bot-b-1", json=event)
    assert medplum.asked.count("Subscription/{id}") == 1
    assert medplum.asked.count("Practitioner/{id}") == 3
