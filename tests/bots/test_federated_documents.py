"""federated-documents behind Medplum's own $execute: the same answers as the responder's, for Medplum's own callers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.host.host import HostServer, HostSettings
from bots.federated_documents import handler
from tests import loopback
from tests.federation.federated_world import CCD, Network, network

BOT = "Bot/5a9dbc00-0000-4000-8000-00000000000b"


@pytest.fixture
def world() -> Iterator[Network]:
    """Medplum with documents; no test here calls the responder."""
    with network() as made:
        yield made


def call(world: Network, given: Any, **secrets: str) -> Json:
    """The bot's answer to an input; a dict without resourceType is the query of a GET."""
    requester = {"reference": f"ClientApplication/{world.medplum.client_id}"}
    return handler(
        {
            "bot": {"reference": BOT},
            "baseUrl": f"{world.medplum.base_url}/",
            "accessToken": world.medplum.token_for(),
            "requester": requester,
            "input": given,
            "contentType": "application/fhir+json",
            "secrets": {name: {"name": name, "valueString": value} for name, value in secrets.items()},
        }
    )


def query_of(url: str) -> dict[str, str]:
    """What reaches the bot when a URL is called through $execute."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_a_query_is_answered_as_the_responder_does(world: Network) -> None:
    """The same documents, with addresses that lead back to the bot."""
    patient = world.patient()
    world.document(patient)
    bundle = call(world, {"patient": patient["id"]})
    (theirs,) = world.caller().query(patient["id"])
    (ours,) = [entry["resource"] for entry in bundle["entry"]]
    address = ours["content"][0]["attachment"].pop("url")
    theirs["content"][0]["attachment"].pop("url")
    assert (bundle["total"], ours) == (1, theirs)
    assert address.startswith(f"{world.medplum.base_url}/fhir/R4/{BOT}/$execute?document=")


def test_nobody_is_a_total_of_zero(world: Network) -> None:
    """Also through this door."""
    assert call(world, {"patient": "nobody", "identifier": "system|bot"})["total"] == 0


def test_the_address_of_a_document_leads_to_its_bytes(world: Network) -> None:
    """A Binary, which Medplum sends as its content; another patient's document is not found."""
    patient, other = world.patient(), world.patient()
    world.document(patient)
    bundle = call(world, {"patient": patient["id"]})
    asked = query_of(bundle["entry"][0]["resource"]["content"][0]["attachment"]["url"])
    binary = call(world, asked)
    assert (binary["contentType"], base64.b64decode(binary["data"])) == ("application/xml", CCD)
    for wrong in (
        {"patient": other["id"]},
        {"patient": "nobody"},
        {"content": "1"},
        {"content": "x"},
        {"content": "9" * 5000},
        {"document": "x"},
    ):
        assert outcomes.codes(call(world, {**asked, **wrong})) == ["not-found"]


def test_pages_are_followed_through_the_bot(world: Network) -> None:
    """The link to the next page carries the query back."""
    patient = world.patient()
    existing = {world.document(patient)["id"] for _ in range(3)}
    asked, seen = {"patient": patient["id"], "_count": "2"}, set()
    while asked:
        bundle = call(world, asked)
        seen |= {entry["resource"]["id"] for entry in bundle["entry"]}
        asked = next((query_of(link["url"]) for link in bundle["link"] if link["relation"] == "next"), {})
    assert seen == existing


def test_the_operation_takes_the_query_as_parameters(world: Network) -> None:
    """POST DocumentReference/$federated-documents; a list of values works as in a query."""
    patient = world.patient()
    world.document(patient)
    asked = parameters.build(parameters.string("patient", patient["id"]), parameters.string("status", "superseded"))
    assert call(world, asked)["total"] == 0
    assert call(world, {"patient": patient["id"], "date": ["ge2026", "lt2027"]})["total"] == 1


def test_an_unknown_parameter_is_ignored(world: Network) -> None:
    """As a FHIR server does; the self link has the parameters that were used."""
    bundle = call(world, {"colour": "red", "patient": "p"})
    assert bundle["total"] == 0
    assert bundle["link"][0]["url"].endswith("DocumentReference?patient=p")


@pytest.mark.parametrize(
    ("given", "code"), [({"type:text": "x", "patient": "p"}, "unknown-parameter"), (None, "patient-required")]
)
def test_a_query_that_is_not_understood_is_an_outcome(world: Network, given: Any, code: str) -> None:
    """A refusal is an OperationOutcome, as a search answers."""
    assert outcomes.codes(call(world, given)) == [code]


def test_the_settings_are_those_of_the_responder(world: Network) -> None:
    """A ceiling of confidentiality, and who counts as registered."""
    patient = world.patient(identifier=[])
    world.document(patient, level="R")
    asked = {"patient": patient["id"]}
    assert call(world, asked)["total"] == 0
    assert call(world, asked, FEDERATED_ANSWER_UNREGISTERED="true")["total"] == 0
    raised = call(world, asked, FEDERATED_ANSWER_UNREGISTERED="true", FEDERATED_CONFIDENTIALITY="R")
    assert raised["total"] == 1


def test_every_access_names_the_caller(world: Network) -> None:
    """The record names who asked Medplum, for the query and for the document."""
    patient = world.patient()
    stored = world.document(patient)
    call(world, {"patient": patient["id"]})
    call(world, {"patient": patient["id"], "document": stored["id"]})
    audits = world.audits()
    assert sorted(event["action"] for event in audits) == ["E", "R"]
    callers = {event["agent"][0]["who"]["reference"] for event in audits}
    assert callers == {f"ClientApplication/{world.medplum.client_id}"}


def test_medplums_own_address_serves_the_network(world: Network) -> None:
    """The base URL is the bot's $execute: the path that a caller appends is ignored, and the query arrives."""
    medplum, server = world.medplum, world.server
    patient = world.patient()
    world.document(patient)
    made = server.post(
        f"admin/projects/{medplum.project_id}/bot", {"name": "federated-documents", "runtimeVersion": "fission"}
    )
    identifier = [{"system": BOT_IDENTIFIER_SYSTEM, "value": handler.bot.identifier}]
    server.change(f"Bot/{made['id']}", lambda bot: {**bot, "identifier": identifier})
    callers = {"FEDERATED_DOCUMENTS_REQUESTERS": f"ClientApplication/{medplum.client_id}"}
    with HostServer(HostSettings(servers=(medplum.base_url,), environ=callers)) as host:
        medplum.bot_host = host.base_url.removeprefix("http://")
        base_url = f"{medplum.base_url}/fhir/R4/Bot/{made['id']}/$execute"
        with loopback.client(headers={"Authorization": f"Bearer {medplum.token_for()}"}) as client:
            bundle = client.get(f"{base_url}/DocumentReference", params={"patient": patient["id"]}).json()
            (entry,) = bundle["entry"]
            answer = client.get(entry["resource"]["content"][0]["attachment"]["url"])
    assert bundle["total"] == 1
    assert answer.status_code == 200
    assert answer.content == CCD, "since 5.1 a Binary that a bot returns is answered as its content"
