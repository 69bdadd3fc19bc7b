"""Invented patients for the tests of registration, ADT and federation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bot_layer.errors import BotError
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules import registration
from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy, Registration
from bot_layer.patient_registration.rules.registration import Act, Context, Found

NOW = datetime(2026, 5, 4, tzinfo=UTC)
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
    """A patient as Health Gorilla would store it, with its own identifier."""
    own = {"system": HEALTH_GORILLA_SYSTEM, "value": hg_id}
    stored = {**ours, "id": hg_id, "identifier": [own, *ours.get("identifier", [])], "meta": {"versionId": "4"}}
    return {key: value for key, value in {**stored, **changes}.items() if value is not None}


def read(resource: Json, policy: Policy = POLICY) -> ClinicPatient:
    """Medplum's Patient as a value."""
    return ClinicPatient.read(resource, policy, NOW)


def build(resource: Json, policy: Policy) -> Json:
    """The resource that would be sent for an unregistered Patient."""
    own = read(resource, policy)
    return own.body(policy, own.external_ids[0])


def found(
    policy: Policy = POLICY,
    *,
    by_identifier: Sequence[Json] = (),
    by_demographics: Sequence[Json] = (),
    recorded: Json | None = None,
) -> Found:
    """The parsed answers of the index."""
    first, second = (
        tuple(Registration.read(each, policy, NOW) for each in resources)
        for resources in (by_identifier, by_demographics)
    )
    return Found(first, second, Registration.read(recorded, policy, NOW) if recorded is not None else None)


def plan(resource: Json, known: Found, policy: Policy = POLICY, context: Context | None = None) -> Act | BotError:
    """The plan for a Patient, or the reason why there is none."""
    try:
        return registration.plan(read(resource, policy), known, policy, context or Context())
    except BotError as refused:
        return refused
