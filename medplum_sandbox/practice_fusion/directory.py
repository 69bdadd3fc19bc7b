"""The practice itself: organisations, clinicians, places and drugs, which belong to no patient."""

from __future__ import annotations

from dataclasses import dataclass

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.make import FAMILIES, GIVEN, RXNORM, SNOMED, TERMS, Make

DRUGS = (("197361", "Amlodipine 5 MG Oral Tablet"), ("860975", "Metformin 500 MG"), ("617312", "Atorvastatin 20 MG"))


@dataclass(frozen=True)
class Office:
    """Ids to refer to, and the resources."""

    organization: str
    practitioners: tuple[str, ...]
    roles: tuple[str, ...]
    locations: tuple[str, ...]
    medications: tuple[str, ...]
    resources: tuple[Json, ...]


def office(make: Make) -> Office:
    """One practice with a parent organisation, three clinicians, two places and three drugs."""
    parent, practice = make.id(), make.id()
    people = tuple(make.id() for _ in range(3))
    roles = tuple(make.id() for _ in people)
    places = (make.id(), make.id())
    drugs = tuple(make.id() for _ in DRUGS)
    resources = [
        _organization(make, parent, "Example Health Holding", None),
        _organization(make, practice, "Praxis “Zum Test” & Söhne", parent),
        *(_practitioner(make, id_) for id_ in people),
        *(_role(make, id_, who, practice, places[0]) for id_, who in zip(roles, people, strict=True)),
        _location(make, places[0], practice, None),
        _location(make, places[1], practice, places[0]),
        *(_medication(make, id_, *drug, practice) for id_, drug in zip(drugs, DRUGS, strict=True)),
    ]
    return Office(practice, people, roles, places, drugs, tuple(resources))


def _organization(make: Make, id_: str, name: str, parent: str | None) -> Json:
    resource: Json = {
        "resourceType": "Organization",
        "id": id_,
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": make.npi()}],
        "active": True,
        "name": name,
        "telecom": [{"system": "phone", "value": "555-0100"}],
    }
    if parent is not None:
        resource["partOf"] = make.ref("Organization", parent, style="relative")
    return resource


def _practitioner(make: Make, id_: str) -> Json:
    return {
        "resourceType": "Practitioner",
        "id": id_,
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": make.npi()}],
        "name": [{"family": make.one(FAMILIES), "given": [make.one(GIVEN)], "suffix": ["MD"]}],
    }


def _role(make: Make, id_: str, practitioner: str, organization: str, location: str) -> Json:
    return {
        "resourceType": "PractitionerRole",
        "id": id_,
        "practitioner": make.ref("Practitioner", practitioner),
        "organization": make.ref("Organization", organization),
        "location": [make.ref("Location", location)],
        "code": [make.code(SNOMED, "59058001", "General physician")],
    }


def _location(make: Make, id_: str, organization: str, parent: str | None) -> Json:
    resource: Json = {
        "resourceType": "Location",
        "id": id_,
        "name": "Room 2" if parent else "Main site",
        "managingOrganization": make.ref("Organization", organization),
    }
    if parent is not None:
        resource["partOf"] = make.ref("Location", parent)
    return resource


def _medication(make: Make, id_: str, code: str, text: str, maker: str) -> Json:
    return {
        "resourceType": "Medication",
        "id": id_,
        "code": make.code(RXNORM, code, text),
        "manufacturer": make.ref("Organization", maker),
        "form": make.code(f"{TERMS}/v3-orderableDrugForm", "TAB", "Tablet"),
    }
