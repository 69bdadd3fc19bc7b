"""Practice locations in Health Gorilla: what a conflict or a lost answer leads to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import requests
import responses

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import locations as in_health_gorilla
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import locations
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from tests.health_gorilla.clinicians import settings

BASE, TOKEN_URL = "https://hg.example/fhir/R4", "https://hg.example/oauth/token"
URL = f"{BASE}/Organization"
ADDRESS = {"use": "work", "line": ["7 Canopy Road"], "city": "Lumberton", "state": "TX", "postalCode": "77657"}
OFFICE = {"resourceType": "Organization", "id": "o", "name": "Canopy Office", "address": [ADDRESS]}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    with responses.mock:
        yield


def client() -> HealthGorillaClient:
    responses.post(TOKEN_URL, json={"access_token": "token-1", "expires_in": 3600})
    given = settings(BASE_URL=BASE, TOKEN_URL=TOKEN_URL, CLIENT_ID="locations")
    return HealthGorillaClient(given, Transport("Health Gorilla", RetryPolicy(retries=0, backoff=0.0)))


def searchset(*found: Json) -> Json:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": each} for each in found]}


def test_a_location_that_was_found_once_is_changed_by_its_id() -> None:
    """If it is renamed between its look-up and the change, no second one is created."""
    gorilla = client()
    requested = locations.wanted(OFFICE, gorilla.settings.tenant_id, NOW)
    known = {**requested, "id": "tl-9", "active": False, "meta": {"versionId": "1"}}
    renamed = {**known, "name": "Bark Office", "meta": {"versionId": "2"}}
    responses.post(URL, body=requests.ConnectionError("reset"))
    responses.get(URL, json=searchset(known))
    responses.get(URL, json=searchset(renamed))
    responses.get(f"{URL}/tl-9", json=renamed)
    responses.put(f"{URL}/tl-9", status=412, json={"resourceType": "OperationOutcome"})
    responses.put(f"{URL}/tl-9", json={**requested, "id": "tl-9"})

    decision = locations.plan(requested, None)
    assert in_health_gorilla.carry_out(gorilla, decision, requested) == "tl-9"
    sent = [(str(call.request.method), call.request.headers.get("If-Match")) for call in responses.calls[1:]]
    writes = [each for each in sent if each[0] != "GET"]
    assert writes == [("POST", None), ("PUT", 'W/"1"'), ("PUT", 'W/"2"')]
