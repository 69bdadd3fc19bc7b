"""No stored id changes the path of a request, whichever client sends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import responses
from pymedplum import MedplumClient

from bot_layer.bot.event import read as read_event
from bot_layer.bot.event import target
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import is_id
from bot_layer.health_gorilla import locations
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.http.transport import Transport
from bot_layer.medplum.binary import open_binary
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.patient_index import Patients
from bot_layer.patient_registration.rules.index_patient import ClinicPatient
from tests.people import NOW, POLICY

HOSTILE = [
    ".",
    "..",
    "../PractitionerRole/x",
    "x?_format=xml&..",
    "x/../../y",
    "x#y",
    "%2e%2e",
    "a b",
    "x\\y",
    "\N{BULLET}",
]
BASE = "https://hg.example/fhir/R4"


def gorilla() -> HealthGorillaClient:
    given = {
        "BASE_URL": BASE,
        "TOKEN_URL": "https://hg.example/oauth/token",
        "CLIENT_ID": "hostile",
        "TENANT_ID": "t-1",
    }
    settings = hg.read(
        {f"HEALTH_GORILLA_{name}": value for name, value in {**given, "CLIENT_SECRET": "s" * 40}.items()}
    )
    return HealthGorillaClient(settings, Transport("Health Gorilla"))


def patients() -> Patients:
    return Patients(gorilla(), POLICY, NOW)


def patient_with(health_gorilla_id: str) -> ClinicPatient:
    """A Patient of Medplum without an id to query, and with this Health Gorilla id."""
    number = {"system": "https://www.healthgorilla.com", "value": health_gorilla_id}
    return ClinicPatient.read({"identifier": [number]}, POLICY, NOW)


GORILLA: dict[str, Callable[[str], Any]] = {
    "an account": lambda bad: gorilla().enrollment(bad),
    "an account's change": lambda bad: gorilla().update("PractitionerRole", {"id": bad}),
    "a location": lambda bad: locations.find(gorilla(), {}, bad),
    "a patient": lambda bad: patients().find_registered(patient_with(bad)),
}


@responses.activate
@pytest.mark.parametrize("bad", HOSTILE)
@pytest.mark.parametrize("call", GORILLA.values(), ids=list(GORILLA))
def test_health_gorilla_is_never_asked_for_another_path(call: Callable[[str], Any], bad: str) -> None:
    """A stored Health Gorilla id is checked before anything is sent to FHIR."""
    responses.post("https://hg.example/oauth/token", json={"access_token": "t", "expires_in": 3600})
    with pytest.raises(BotError):
        call(bad)
    assert [call.request.url for call in responses.calls if "/fhir/" in str(call.request.url)] == []


MEDPLUM: dict[str, Callable[[Medplum, str], Any]] = {
    "read": lambda server, bad: server.read(f"Patient/{bad}"),
    "change": lambda server, bad: server.change(f"Patient/{bad}", lambda now: now),
    "update": lambda server, bad: server.update({"resourceType": "Patient", "id": bad, "meta": {"versionId": "1"}}),
    "restore": lambda server, bad: server.restore({"resourceType": "Patient", "id": bad}),
    "delete": lambda server, bad: server.delete(f"Patient/{bad}"),
    "summary": lambda server, bad: server.ccda(bad),
    "document": open_binary,
    "another type": lambda server, bad: server.create({"resourceType": bad}),
    "a search": lambda server, bad: server.search(bad, []),
}


@pytest.mark.parametrize("bad", HOSTILE)
@pytest.mark.parametrize("call", MEDPLUM.values(), ids=list(MEDPLUM))
def test_medplum_is_never_asked_for_another_path(call: Callable[[Medplum, str], Any], bad: str) -> None:
    """A reference or an id out of a resource is checked before anything is sent."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(urlsplit(str(request.url)).path)
        return httpx.Response(200, json={"resourceType": "Patient", "id": "x"})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = MedplumClient("https://medplum.example/", access_token="t", http_client=http)
    with pytest.raises(BotError):
        call(Medplum(client, http), bad)
    assert asked == []


@pytest.mark.parametrize("bad", HOSTILE)
def test_a_call_never_names_a_target_with_such_an_id(bad: str) -> None:
    """Neither by a reference nor by a resource of the input."""
    inputs: list[Json] = [{"reference": f"Patient/{bad}"}, {"resourceType": "Patient", "id": bad}, {"patient": bad}]
    for given in inputs:
        event = read_event({"baseUrl": "https://medplum.example", "accessToken": "t", "input": given})
        try:
            found = target(event, "Patient", "patient")
        except BotError:
            continue
        assert found.id not in {".", ".."}
        assert bad not in found.reference


@pytest.mark.parametrize("bad", HOSTILE)
def test_a_source_is_never_asked_for_such_an_id(bad: str) -> None:
    """The bulk source's records are read by ids that this accepts."""
    assert not is_id(bad)
