"""What Health Gorilla shall have of a clinician beside the name: account numbers, single sign-on, locations.

The rules are those of the integration's guide "User Management".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note, warning
from bot_layer.health_gorilla.rules.settings import SYSTEM, HealthGorilla


@dataclass(frozen=True)
class AccountRequest:
    """What Health Gorilla shall have beside the name: identifiers to merge, locations; and what to say of them.

    ``locations`` replaces the list there, None leaves it. ``emails`` are tried in turn. ``password`` is for a new
    account only.
    """

    identifiers: Sequence[Json] = field(default=(), repr=False)
    locations: Sequence[str] | None = None
    issues: Sequence[Issue] = ()
    emails: Sequence[str] = field(default=(), repr=False)
    password: str | None = field(default=None, repr=False)


def for_existing(requested: AccountRequest) -> AccountRequest:
    """The request for an account that is there already: its password is not touched, and that is said."""
    if requested.password is None:
        return requested
    text = "The account exists already: its password was left as it is; its user can change it in Health Gorilla."
    return replace(requested, password=None, issues=[*requested.issues, warning("password-not-set", text)])


def account_numbers(practitioner: Json, organizations: Mapping[str, Json]) -> AccountRequest:
    """The practitioner's account numbers as Health Gorilla writes them, and a warning for each that can't be resolved.

    ``organizations`` maps references of Medplum (``Organization/id``) to the resources that were found.
    """
    resolved: list[Json] = []
    issues: list[Issue] = []
    for place, identifier in enumerate(practitioner.get("identifier", [])):
        if identifiers.kind(identifier) != "AN":
            continue
        where = [f"Practitioner.identifier[{place}]"]
        laboratory = laboratory_of(identifier, organizations)
        if identifier.get("use") == "old":
            issues.append(note("account-number-old", "An account number of use old was left out."))
        elif not str(identifier.get("value") or "").strip():
            issues.append(warning("account-number-empty", "An account number has no value.", expression=where))
        elif laboratory is None:
            text = "An account number's assigner is no Organization with a Health Gorilla id (f-...)."
            issues.append(warning("account-number-unresolved", text, expression=where))
        else:
            resolved.append(identifiers.account_number(laboratory, str(identifier["value"]).strip()))
    return AccountRequest(identifiers.merge([], resolved), issues=tuple(issues))


def laboratory_of(identifier: Json, organizations: Mapping[str, Json]) -> str | None:
    """``Organization/f-...`` of an account number's assigner, by its resource or by its logical reference."""
    assigner = identifier.get("assigner")
    if not isinstance(assigner, dict):
        return None
    logical = assigner.get("identifier")
    own = [logical] if isinstance(logical, dict) else []
    known = organizations.get(str(assigner.get("reference") or ""), {}).get("identifier", [])
    for value in identifiers.values_of([*known, *own], SYSTEM):
        if value.startswith("f-"):
            return f"Organization/{value}"
    return None


def assigner_references(practitioner: Json) -> list[str]:
    """The Organizations of Medplum that the account numbers name, each once."""
    numbers = (found for found in practitioner.get("identifier", []) if identifiers.kind(found) == "AN")
    references = (identifiers.assigner(number) for number in numbers)
    return list(dict.fromkeys(found for found in references if found.startswith("Organization/")))


def with_single_sign_on(requested: AccountRequest, practitioner: Json, settings: HealthGorilla) -> AccountRequest:
    """The request with the identifier for single sign-on, where a facility is set."""
    if not settings.sso_facility_id:
        return requested
    number = identifiers.provider_number(f"Organization/{settings.sso_facility_id}", sign_on_value(practitioner))
    return replace(requested, identifiers=[*requested.identifiers, number])


def sign_on_value(practitioner: Json) -> str:
    """The user's UUID for single sign-on: the practitioner's own PRN that no organization gave, else Medplum's id."""
    own = (
        str(found.get("value") or "").strip()
        for found in practitioner.get("identifier", [])
        if identifiers.kind(found) == "PRN" and found.get("use") != "old" and not found.get("assigner")
    )
    return next(filter(None, own), str(practitioner["id"]))
