"""Invented clinicians, directory records and accounts for the tests of enrollment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from bot_layer.fhir.identifiers import NPI_SYSTEM, account_number, health_gorilla, npi
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import accounts, names
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import DirectoryEntry, Enrollment
from bot_layer.health_gorilla.rules.names import NameMatch, PersonName
from bot_layer.health_gorilla.rules.settings import HealthGorilla

NPI = "1234567893"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DIRECTORY_NAME: Json = {"use": "official", "family": "OKONKWO-REYES", "given": ["AMARA"]}
RECORD: Json = {"resourceType": "Practitioner", "id": "hg-1", "name": [DIRECTORY_NAME]}
ENTRY = DirectoryEntry.read(RECORD, NOW)
NUMBER = account_number("Organization/f-1", "A-1")


def practitioner(*identifiers: Json, **changes: Any) -> Json:
    """A Practitioner of Medplum with an NPI and these identifiers; a change to None takes an element away."""
    whole: Json = {
        "resourceType": "Practitioner",
        "id": "3f6f1c1e-8a52-4a0e-9a6c-0d5b6b6f9a11",
        "identifier": [{"system": NPI_SYSTEM, "value": NPI}, *identifiers],
        "name": [{"family": "Okonkwo-Reyes", "given": ["Amara", "L"]}],
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def read(resource: Json) -> Clinician:
    """A Practitioner as the rules see it at the time of the tests."""
    return Clinician.read(resource, NOW)


def entry(practitioner: Json) -> DirectoryEntry:
    """A record of the NPI directory as the rules see it."""
    return DirectoryEntry.read(practitioner, NOW)


def match(own: Sequence[Json], directory: Json) -> NameMatch:
    """How far the names of a Practitioner agree with the directory's."""
    return names.match(names.read(list(own), NOW), PersonName.read(directory, NOW))


def official(given: object) -> Json:
    """The name that a person uses, as it was written."""
    return names.official(names.read(given, NOW)).element


def clinician(*identifiers: Json, **changes: Any) -> Clinician:
    """The value of ``practitioner(...)``."""
    return read(practitioner(*identifiers, **changes))


def settings(**changes: str) -> HealthGorilla:
    """The settings of one tenant, with these changed (``SSO_FACILITY_ID="f-9"``)."""
    least = {"CLIENT_ID": "client", "CLIENT_SECRET": "s" * 40, "TENANT_ID": "t-1", **changes}
    return hg.read({f"HEALTH_GORILLA_{name}": value for name, value in least.items()})


def enrolled(*more: Json, login: str | None = "amara", role_id: str = "role-1", **changes: Any) -> Enrollment:
    """An account as Health Gorilla returns it; ``more`` are identifiers, ``changes`` are made to its role."""
    person: Json = {
        "resourceType": "Practitioner",
        "id": "pr",
        "identifier": [npi(NPI), health_gorilla("hg-1"), *more],
        "name": [DIRECTORY_NAME],
    }
    person = accounts.with_login(person, login)
    role: Json = {
        "resourceType": "PractitionerRole",
        "id": role_id,
        "meta": {"versionId": "1"},
        "active": True,
        "practitioner": {"reference": "#pr"},
        "contained": [person],
    }
    return Enrollment.read({**role, **changes}, person, NOW)
