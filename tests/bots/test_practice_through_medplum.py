"""The operations as a client of Medplum calls them: deployed, through the server and the bots' host, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot_layer.demo.world import World
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one
from medplum_sandbox.health_gorilla import npi
from tests import loopback

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

ROOT = Path(__file__).resolve().parents[2]
BOTS = ("sync-practitioner", "create-staff-user", "sync-location", "check-health-gorilla")
SECRET = "invented-Secret-82!"


class Caller:
    """A client of Medplum's REST API."""

    def __init__(self, world: World) -> None:
        self.world = world
        token = world.medplum.token_for()
        base = f"{world.medplum.base_url}/fhir/R4/"
        self._http = loopback.client(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=240)

    def store(self, resource: Json) -> Json:
        """The stored resource."""
        answer = self._http.post(resource["resourceType"], json=resource)
        assert answer.status_code == 201, answer.text
        stored: Json = answer.json()
        return stored

    def call(self, operation: str, resource: Json, *entries: Json, on_instance: bool = False) -> Json:
        """The answer to a call on the type, or on the instance."""
        name = "location" if operation == "sync-location" else "practitioner"
        reference = f"{resource['resourceType']}/{resource['id']}"
        path = f"{reference if on_instance else resource['resourceType']}/${operation}"
        parameter = [*([] if on_instance else [{"name": name, "valueReference": {"reference": reference}}]), *entries]
        answer = self._http.post(path, json={"resourceType": "Parameters", "parameter": parameter})
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def texts(self, *types: str) -> str:
        """All versions of Medplum's resources of some types."""
        found = ""
        for name in types:
            answer = self._http.get(name, params={"_count": "200"})
            found += answer.text
            for entry in answer.json().get("entry", []):
                found += self._http.get(f"{name}/{entry['resource']['id']}/_history").text
        return found


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with World() as world:
        words = [sys.executable, "deploy_bots.py", *(word for bot in BOTS for word in ("--only", bot))]
        environ = {**os.environ, **world.environment()}
        done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        yield Caller(world)


def action(answer: Json) -> str:
    return str(one(answer, "action"))


def person(**changes: Any) -> Json:
    return {"resourceType": "Practitioner", "name": [{"family": "Deskwright", "given": ["Flora"]}], **changes}


def test_the_check_through_medplum(caller: Caller) -> None:
    """The connection is checked by an operation on the type, and says ok."""
    someone = caller.store(person())
    answer = caller.call("check-health-gorilla", someone)
    assert one(answer, "ok") is False, "somebody without NPI is not a known clinician"
    assert "npi-missing" in outcomes.codes(one(answer, "outcome"))


def test_a_staff_account_through_medplum(caller: Caller) -> None:
    """On the instance without parameters, on the type with a role; parameters that an instance loses are refused."""
    someone = caller.store(person())
    assert action(caller.call("create-staff-user", someone, on_instance=True)) == "enrolled"
    role = {"name": "role", "valueCode": "officeManager"}
    lost = caller.call("create-staff-user", someone, role, on_instance=True)
    assert outcomes.codes(one(lost, "outcome")) == ["parameters-not-delivered"]
    assert action(caller.call("create-staff-user", someone, role)) == "updated"


def test_a_clinician_moves_to_a_new_location(caller: Caller) -> None:
    """A location is created, a clinician is enrolled by Subscription and then assigned to it."""
    address = {"line": ["7 Canopy Road"], "city": "Lumberton", "state": "TX", "postalCode": "77657"}
    office = caller.store({"resourceType": "Organization", "name": "Canopy Office", "address": [address]})
    assert action(caller.call("sync-location", office, on_instance=True)) == "created"
    joe = caller.store(
        {
            "resourceType": "Practitioner",
            "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(1)}],
            "name": [{"family": "Gorilla", "given": ["Joe"]}],
        }
    )
    caller.world.medplum.settle(timeout=240)
    move = {"name": "location", "valueReference": {"reference": f"Organization/{office['id']}"}}
    assert action(caller.call("sync-practitioner", joe, move)) == "updated"
    (role,) = [found for found in caller.world.gorilla.roles() if npi(1) in str(found)]
    assert role["location"][0]["reference"].startswith("Organization/tl-")


def test_the_sync_answers_under_both_names(caller: Caller) -> None:
    """Medplum's documentation now calls the operation $health-gorilla-sync-practitioner; both are deployed."""
    someone = caller.store(person())
    for operation in ("sync-practitioner", "health-gorilla-sync-practitioner"):
        for on_instance in (True, False):
            answer = caller.call(operation, someone, on_instance=on_instance)
            assert outcomes.codes(one(answer, "outcome")) == ["npi-missing"]


def test_a_password_is_on_no_resource_of_medplum(caller: Caller, capfd: pytest.CaptureFixture[str]) -> None:
    """A password in a call through the server is in no AuditEvent, no resource, no version, no log of the host."""
    someone = caller.store(person(name=[{"family": "Ledger", "given": ["Basil"]}]))
    answer = caller.call("create-staff-user", someone, {"name": "password", "valueString": SECRET})
    assert action(answer) == "enrolled"
    caller.world.medplum.settle(timeout=240)
    audited = caller.texts("AuditEvent")
    assert "create-staff-user" in audited or "Bot/" in audited, "the run left no AuditEvent to look at"
    result = capfd.readouterr()
    for text in (
        str(answer),
        audited,
        caller.texts("Practitioner", "Bot", "OperationDefinition"),
        result.out,
        result.err,
    ):
        assert SECRET not in text
