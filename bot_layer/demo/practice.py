"""Part two of the demo: create staff accounts and locations in Health Gorilla."""

from __future__ import annotations

from bot_layer.demo.clinicians import accounts_of
from bot_layer.demo.scenario import Scenario, action
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json


def run(scenario: Scenario) -> None:
    """Check the connection, create a staff account and two locations, and move a clinician between them."""
    scenario.section("The practice: $create-staff-user, $sync-location, $check-health-gorilla")
    joe = scenario.sample("Practitioner", "joe")
    checked = scenario.rest("POST", "fhir/R4/Practitioner/$check-health-gorilla", _call(_named("practitioner", joe)))
    scenario.expect(parameters.one(checked, "ok") is True, "$check-health-gorilla finds all in order")
    _staff(scenario)
    _locations(scenario, joe)


def _staff(scenario: Scenario) -> None:
    olive = scenario.sample("Practitioner", "staff")
    body = _call(
        _named("practitioner", olive),
        parameters.code("role", "officeManager"),
        parameters.code("securityRole", "staff"),
    )
    answer = scenario.rest("POST", "fhir/R4/Practitioner/$create-staff-user", body)
    scenario.expect(action(answer) == "enrolled", "$create-staff-user for somebody without NPI", action(answer))
    again = scenario.rest("POST", "fhir/R4/Practitioner/$create-staff-user", body)
    scenario.expect(action(again) == "unchanged", "the same call again", action(again))


def _locations(scenario: Scenario, joe: Json) -> None:
    offices = [_office(scenario, name) for name in ("Lumberton Office", "Rain Forest Office")]
    for office in offices:
        answer = scenario.rest("POST", "fhir/R4/Organization/$sync-location", _call(_named("location", office)))
        scenario.expect(action(answer) == "created", f"$sync-location: {office['name']}", action(answer))
    for office in offices:
        body = _call(_named("practitioner", joe), _named("location", office))
        answer = scenario.rest("POST", "fhir/R4/Practitioner/$sync-practitioner", body)
        scenario.expect(action(answer) == "updated", f"the clinician works at {office['name']}", action(answer))
    (account,) = accounts_of(scenario, joe)
    scenario.expect(len(account["location"]) == 1, "the list given replaces the list there")


def _office(scenario: Scenario, name: str) -> Json:
    office: Json = {
        "resourceType": "Organization",
        "active": True,
        "name": name,
        "telecom": [{"system": "phone", "value": "409-555-0100"}],
        "address": [{"line": ["1572 Jungle"], "city": "Lumberton", "state": "TX", "postalCode": "77706"}],
    }
    created: Json = scenario.rest("POST", "fhir/R4/Organization", office)
    return created


def _call(*entries: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(entries)}


def _named(name: str, resource: Json) -> Json:
    return parameters.reference(name, f"{resource['resourceType']}/{resource['id']}")
