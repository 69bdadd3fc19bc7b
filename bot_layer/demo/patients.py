"""Part three of the demo: register and change patients, and let another network query for them."""

from __future__ import annotations

from bot_layer.demo.scenario import Scenario, execute_path, named
from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import FederatedCaller

_NOTE = "<ClinicalDocument><title>Visit</title></ClinicalDocument>"
_MESSAGE = "\r".join(
    [
        r"MSH|^~\&|EHR|NORTH|BOTS|SOUTH|20261122120000||ADT^A08^ADT_A01|C-1|P|2.5.1",
        "EVN||20261122120000",
        "PID|1||MRN-7^^^CLINIC^MR||Sommer^Anna||19800229|F|||99 Oak Street^^Santa Monica^CA^90402",
    ]
)


def run(scenario: Scenario) -> None:
    """Register by Subscription, register again, change by ADT, answer the network, deny all other patients."""
    scenario.section("Patients: $register-patient, ADT, federated queries")
    patient = _registered(scenario)
    _by_adt(scenario)
    _queried(scenario, patient)


def _registered(scenario: Scenario) -> Json:
    patient: Json = {
        "resourceType": "Patient",
        "identifier": [{"system": "https://clinic.example", "value": "MRN-7"}],
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [{"line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}],
    }
    created: Json = scenario.rest("POST", "Patient", patient)
    gorilla = scenario.world.gorilla
    scenario.settled(lambda: len(gorilla.patients()) == 1, "a Patient created in Medplum is registered")
    operation = "Patient/$register-patient"
    scenario.call(operation, named("patient", created), action="unchanged", text="$register-patient on it")
    incomplete = scenario.rest("POST", "Patient", {"resourceType": "Patient", "name": [{"family": "Nobody"}]})
    scenario.world.medplum.settle(timeout=30)
    tasks = scenario.rest("GET", f"Task?patient=Patient/{incomplete['id']}").get("entry", [])
    scenario.expect(len(tasks) == 1, "an incomplete one leaves a Task with the reason")
    return created


def _by_adt(scenario: Scenario) -> None:
    path, gorilla = execute_path("health-gorilla-labs/register-patient"), scenario.world.gorilla
    answer = scenario.rest("POST", path, _MESSAGE, content_type="x-application/hl7-v2+er7")
    scenario.expect("MSA|AA|C-1" in answer, "an ADT A08 is acknowledged", "AA")
    (registered,) = gorilla.patients()
    street = registered["address"][0]["line"][0]
    scenario.expect(street == "99 Oak Street", "the new address is in Medplum and in the index")
    scenario.rest("POST", path, _MESSAGE, content_type="x-application/hl7-v2+er7")
    scenario.settled(lambda: gorilla.patients() == [registered], "the same message again changes nothing")


def _queried(scenario: Scenario, patient: Json) -> None:
    binary = scenario.rest("POST", "Binary", _NOTE, content_type="application/xml")
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{patient['id']}"},
        "date": "2026-11-22T12:00:00Z",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]},
        "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{binary['id']}"}}],
    }
    scenario.rest("POST", "DocumentReference", document)
    login = scenario.world.ready()["federated"]
    network = FederatedCaller(
        login["tokenUrl"], login["baseUrl"], login["clientId"], login["clientSecret"], aud=login["baseUrl"]
    )
    found = network.query(patient["id"])
    scenario.expect(len(found) == 1, "the network's query: token, DocumentReference, total 1")
    content = network.fetch(found[0]).decode()
    scenario.expect(content == _NOTE, "the document: type, size and hash as promised", f"{len(content)} bytes")
    scenario.expect(network.query("nobody") == [], "a patient whom nobody knows: total 0")
    records = scenario.rest("GET", "AuditEvent?_count=100").get("entry", [])
    scenario.expect(any("federated" in str(entry) for entry in records), "each access left an AuditEvent")
