"""What an account in Health Gorilla needs besides the name: account numbers, single sign-on, locations, role.

The rules are those of the integration's guide "User Management".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note, warning
from bot_layer.health_gorilla.rules import practitioner_role
from bot_layer.health_gorilla.rules.clinician import AccountNumber, Clinician
from bot_layer.health_gorilla.rules.practice_organizations import Organizations, health_gorilla_reference
from bot_layer.health_gorilla.rules.settings import HealthGorilla

_ROLE_PARAMETER = "Parameters.parameter.where(name='practitionerRole')"


@dataclass(frozen=True)
class AccountRequest:
    """What the account is to have besides the name, and what to report about it.

    ``identifiers`` are merged into the account's. ``locations`` replaces the account's list; None leaves it.
    ``emails`` are tried in turn. ``password`` is for a new account only. ``practitioner_role`` is given by the
    call.
    """

    identifiers: Sequence[Json] = field(default=(), repr=False)
    locations: Sequence[str] | None = None
    issues: Sequence[Issue] = ()
    emails: Sequence[str] = field(default=(), repr=False)
    password: str | None = field(default=None, repr=False)
    practitioner_role: str | None = None


def for_existing(requested: AccountRequest) -> AccountRequest:
    """The request for an account that exists: its password stays as it is, with a warning where one was given."""
    if requested.password is None:
        return requested
    text = "The account already exists and keeps its password; the user can change it in Health Gorilla."
    return replace(requested, password=None, issues=[*requested.issues, warning("password-not-set", text)])


def for_new(requested: AccountRequest, role: str | None) -> AccountRequest:
    """The request for a new account with this practitioner role, with a warning where FHIR does not know the role."""
    where = "PractitionerRole.code" if requested.practitioner_role is None else _ROLE_PARAMETER
    return replace(requested, issues=[*requested.issues, *practitioner_role.issues_of(role, where)])


def resolve_numbers(numbers: Iterable[AccountNumber], organizations: Organizations) -> AccountRequest:
    """The account numbers as Health Gorilla writes them, each once, and an issue for each that was left out.

    ``organizations`` maps references of Medplum (``Organization/id``) to what was found there.
    """
    resolved: list[Json] = []
    issues: list[Issue] = []
    for number in numbers:
        laboratory = laboratory_of(number, organizations)
        if not number.is_in_force:
            text = "An account number that is not in force (use old, or outside its period) was left out."
            issues.append(note("account-number-old", text))
        elif not number.value:
            issues.append(warning("account-number-empty", "An account number has no value.", expression=[number.where]))
        elif laboratory is None:
            text = "An account number's assigner is not an Organization with a Health Gorilla id (f-...)."
            issues.append(warning("account-number-unresolved", text, expression=[number.where]))
        else:
            resolved.append(identifiers.account_number(laboratory, number.value))
    return AccountRequest(identifiers.merge([], resolved), issues=tuple(issues))


def laboratory_of(number: AccountNumber, organizations: Organizations) -> str | None:
    """``Organization/f-...`` of an account number's assigner, by its resource or by its logical reference."""
    known = health_gorilla_reference(number.assigner, organizations, "f-")
    return known or (f"Organization/{number.laboratory}" if number.laboratory else None)


def assigners(numbers: Iterable[AccountNumber]) -> list[str]:
    """The Organizations of Medplum that assigned the numbers, each once."""
    return list(dict.fromkeys(found.assigner for found in numbers if found.assigner.startswith("Organization/")))


def with_single_sign_on(requested: AccountRequest, clinician: Clinician, settings: HealthGorilla) -> AccountRequest:
    """The request with the identifier for single sign-on, where a facility is set."""
    if not settings.sso_facility_id:
        return requested
    number = identifiers.provider_number(f"Organization/{settings.sso_facility_id}", clinician.sign_on)
    return replace(requested, identifiers=[*requested.identifiers, number])
