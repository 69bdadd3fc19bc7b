"""Invented patients for the tests of registration, ADT and federation."""

from __future__ import annotations

from typing import Any

from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules.index_patient import Policy

SYSTEM = "https://clinic.example"
POLICY = Policy(SYSTEM)
PATIENT_ID = "3f6f1c1e-8a52-4a0e-9a6c-0d5b6b6f9a11"


def patient(**changes: Any) -> Json:
    """A complete patient; a change to None takes the element away."""
    whole: Json = {
        "resourceType": "Patient",
        "id": PATIENT_ID,
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna", "Maria"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [
            {"use": "home", "line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}
        ],
        "telecom": [
            {"system": "phone", "value": "(310) 555-0142", "use": "mobile", "rank": 1},
            {"system": "email", "value": "anna@mail.example"},
        ],
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def registered(ours: Json, hg_id: str = "hg-1", **changes: Any) -> Json:
    """A patient as Health Gorilla would hold it, with an identifier of its own."""
    own = {"system": HEALTH_GORILLA_SYSTEM, "value": hg_id}
    held = {**ours, "id": hg_id, "identifier": [own, *ours.get("identifier", [])], "meta": {"versionId": "4"}}
    return {key: value for key, value in {**held, **changes}.items() if value is not None}
