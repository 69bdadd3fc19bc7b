"""The story's second part: the rest of a practice gets its place in Health Gorilla."""

from __future__ import annotations

from bot_layer.demo.clinicians import accounts_of
from bot_layer.demo.scenario import Teller, action
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json


def tell(teller: Teller) -> None:
    """A check of the connection, a staff account, two locations, and a clinician who moves between them."""
    teller.chapter("The practice: $create-staff-user, $sync-location, $check-health-gorilla")
    joe = teller.sample("Practitioner", "joe")
    checked = teller.rest("POST", "fhir/R4/Practitioner/$check-health-gorilla", _call(_named("practitioner", joe)))
    teller.expect(parameters.one(checked, "ok") is True, "$check-health-gorilla finds all in order")
    _staff(teller)
    _locations(teller, joe)


def _staff(teller: Teller) -> None:
    olive = teller.sample("Practitioner", "staff")
    body = _call(
        _named("practitioner", olive),
        parameters.code("role", "officeManager"),
        parameters.code("securityRole", "staff"),
    )
    answer = teller.rest("POST", "fhir/R4/Practitioner/$create-staff-user", body)
    teller.expect(action(answer) == "enrolled", "$create-staff-user for somebody without NPI", action(answer))
    again = teller.rest("POST", "fhir/R4/Practitioner/$create-staff-user", body)
    teller.expect(action(again) == "unchanged", "the same call again", action(again))


def _locations(teller: Teller, joe: Json) -> None:
    offices = [_office(teller, name) for name in ("Lumberton Office", "Rain Forest Office")]
    for office in offices:
        answer = teller.rest("POST", "fhir/R4/Organization/$sync-location", _call(_named("location", office)))
        teller.expect(action(answer) == "created", f"$sync-location: {office['name']}", action(answer))
    for office in offices:
        body = _call(_named("practitioner", joe), _named("location", office))
        answer = teller.rest("POST", "fhir/R4/Practitioner/$sync-practitioner", body)
        teller.expect(action(answer) == "updated", f"the clinician works at {office['name']}", action(answer))
    (account,) = accounts_of(teller, joe)
    teller.expect(len(account["location"]) == 1, "the list given replaces the list there")


def _office(teller: Teller, name: str) -> Json:
    office: Json = {
        "resourceType": "Organization",
        "active": True,
        "name": name,
        "telecom": [{"system": "phone", "value": "409-555-0100"}],
        "address": [{"line": ["1572 Jungle"], "city": "Lumberton", "state": "TX", "postalCode": "77706"}],
    }
    created: Json = teller.rest("POST", "fhir/R4/Organization", office)
    return created


def _call(*entries: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(entries)}


def _named(name: str, resource: Json) -> Json:
    return parameters.reference(name, f"{resource['resourceType']}/{resource['id']}")
