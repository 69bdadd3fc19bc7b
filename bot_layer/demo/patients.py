"""Part three of the demo: register and change patients, and let another network query for them."""

from __future__ import annotations

from bot_layer.demo.scenario import Scenario, action
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import FederatedCaller

_CLINIC = "https://clinic.example"
_EXECUTE = (
    "fhir/R4/Bot/$execute?identifier=https://www.medplum.com/integrations/bot-identifier"
    "|health-gorilla-labs/register-patient"
)
_NOTE = "<ClinicalDocument><title>Visit</title></ClinicalDocument>"


def run(scenario: Scenario) -> None:
    """Register by Subscription, register again, change by ADT, answer the network, deny all other patients."""
    scenario.section("Patients: $register-patient, ADT, federated queries")
    patient = _registered(scenario)
    _by_adt(scenario)
    _asked_for(scenario, patient)


def _registered(scenario: Scenario) -> Json:
    patient: Json = {
        "resourceType": "Patient",
        "identifier": [{"system": _CLINIC, "value": "MRN-7"}],
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [{"line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}],
    }
    created: Json = scenario.rest("POST", "fhir/R4/Patient", patient)
    scenario.settled(lambda: len(scenario.world.gorilla.patients()) == 1, "a Patient created in Medplum is registered")
    body = {
        "resourceType": "Parameters",
        "parameter": [parameters.reference("patient", f"Patient/{created['id']}")],
    }
    again = scenario.rest("POST", "fhir/R4/Patient/$register-patient", body)
    scenario.expect(action(again) == "unchanged", "$register-patient on it", action(again))
    hollow = scenario.rest("POST", "fhir/R4/Patient", {"resourceType": "Patient", "name": [{"family": "Nobody"}]})
    scenario.world.medplum.settle(timeout=30)
    tasks = scenario.rest("GET", f"fhir/R4/Task?patient=Patient/{hollow['id']}").get("entry", [])
    scenario.expect(len(tasks) == 1, "an incomplete one leaves a Task with the reason")
    return created


def _by_adt(scenario: Scenario) -> None:
    message = "\r".join(
        [
            r"MSH|^~\&|EHR|NORTH|BOTS|SOUTH|20261122120000||ADT^A08^ADT_A01|C-1|P|2.5.1",
            "EVN||20261122120000",
            "PID|1||MRN-7^^^CLINIC^MR||Sommer^Anna||19800229|F|||99 Oak Street^^Santa Monica^CA^90402",
        ]
    )
    answer = scenario.rest("POST", _EXECUTE, message, content_type="x-application/hl7-v2+er7")
    scenario.expect("MSA|AA|C-1" in answer, "an ADT A08 is acknowledged", "AA")
    (registered,) = scenario.world.gorilla.patients()
    street = registered["address"][0]["line"][0]
    scenario.expect(street == "99 Oak Street", "the new address is in Medplum and in the index")
    scenario.rest("POST", _EXECUTE, message, content_type="x-application/hl7-v2+er7")
    scenario.world.medplum.settle(timeout=30)
    same = scenario.world.gorilla.patients() == [registered]
    scenario.expect(same, "the same message again changes nothing")


def _asked_for(scenario: Scenario, patient: Json) -> None:
    scenario.rest("POST", "fhir/R4/DocumentReference", _document(scenario, patient))
    federated = scenario.world.ready()["federated"]
    network = FederatedCaller(
        federated["tokenUrl"],
        federated["baseUrl"],
        federated["clientId"],
        federated["clientSecret"],
        aud=federated["baseUrl"],
    )
    (found,) = network.query(patient["id"])
    scenario.step("the network's query: token, DocumentReference, total 1")
    document = network.fetch(found)
    scenario.expect(
        document.decode() == _NOTE, "the document: type, size and hash as promised", f"{len(document)} bytes"
    )
    scenario.expect(network.query("nobody") == [], "a patient whom nobody knows: total 0")
    records = scenario.rest("GET", "fhir/R4/AuditEvent?_count=100").get("entry", [])
    scenario.expect(any("federated" in str(entry) for entry in records), "each access left an AuditEvent")


def _document(scenario: Scenario, patient: Json) -> Json:
    binary = scenario.rest("POST", "fhir/R4/Binary", _NOTE, content_type="application/xml")
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{patient['id']}"},
        "date": "2026-11-22T12:00:00Z",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]},
        "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{binary['id']}"}}],
    }
