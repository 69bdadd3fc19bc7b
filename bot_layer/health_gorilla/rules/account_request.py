"""What an account in Health Gorilla needs besides the name: account numbers, single sign-on, locations, role.

Tenants, locations and laboratories are Organizations of Medplum with a Health Gorilla id: a tenant's id begins with
``t-``, a location's with ``tl-``, a laboratory's with ``f-``. The rules are those of the integration's guide "User
Management" and of https://www.medplum.com/docs/integration/health-gorilla/multiple-locations
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note, warning
from bot_layer.fhir.periods import current
from bot_layer.health_gorilla.rules import practitioner_role
from bot_layer.health_gorilla.rules.clinician import AccountNumber, Clinician, own_numbers, reference_of
from bot_layer.health_gorilla.rules.settings import SYSTEM, HealthGorilla

# Medplum's ids are UUIDs, so these prefixes mark Health Gorilla's own ids.
PREFIXES = ("t-", "tl-", "f-")


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


@dataclass(frozen=True)
class PracticeOrganization:
    """An Organization of Medplum: its Health Gorilla ids that are in force, and a location's account numbers."""

    health_gorilla_ids: tuple[str, ...] = ()
    numbers: tuple[AccountNumber, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, organization: Json, now: datetime) -> PracticeOrganization:
        """The Organization as a value."""
        valid = current(organization.get("identifier"), now)
        numbers = own_numbers(organization, "Organization", now)
        return cls(tuple(identifiers.values_of(valid, SYSTEM)), tuple(numbers))


Organizations = Mapping[str, PracticeOrganization]
"""Organizations of Medplum by their references, ``Organization/id``."""


def for_existing(requested: AccountRequest) -> AccountRequest:
    """The request for an account that exists: its password stays as it is, with a warning where one was given."""
    if requested.password is None:
        return requested
    text = "The account already exists and keeps its password; the user can change it in Health Gorilla."
    return replace(requested, password=None, issues=[*requested.issues, warning("password-not-set", text)])


def for_new(requested: AccountRequest, role: str | None) -> AccountRequest:
    """The request for a new account with this practitioner role, with a warning where FHIR does not know the role."""
    if role is None or role in practitioner_role.DISPLAYS:
        return requested
    is_given = requested.practitioner_role is not None
    where = parameters.path_of("practitionerRole") if is_given else "PractitionerRole.code"
    text = f"The practitioner role is none of {', '.join(practitioner_role.DISPLAYS)}: it was sent as given."
    return replace(requested, issues=[*requested.issues, warning("role-unknown", text, expression=[where])])


def resolve_numbers(numbers: Iterable[AccountNumber], organizations: Organizations) -> AccountRequest:
    """The account numbers as Health Gorilla writes them, each once, and an issue for each that was left out."""
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


def references(given: Json, name: str) -> list[str]:
    """The Organizations that input parameters of a name refer to, each once; InputError for any other type."""
    found = [reference_of(value) for value in parameters.values(given, name)]
    if not all(reference.startswith("Organization/") for reference in found):
        text = f"The reference in {name} must have the form Organization/{{id}}."
        raise InputError(text, code="wrong-target", expression=[parameters.path_of(name)])
    return list(dict.fromkeys(found))


def health_gorilla_reference(reference: str, organizations: Organizations, prefix: str) -> str | None:
    """``Organization/tl-...`` for an Organization of Medplum that has such an id, or for one given as that."""
    if reference.startswith(f"Organization/{prefix}"):
        return reference
    known = organizations[reference].health_gorilla_ids if reference in organizations else ()
    return next((f"Organization/{value}" for value in known if value.startswith(prefix)), None)


def resolve_locations(wanted: Sequence[str], organizations: Organizations) -> list[str]:
    """The locations as Health Gorilla names them; InputError where one has not been made there yet."""
    found = [health_gorilla_reference(reference, organizations, "tl-") for reference in wanted]
    missing = found.count(None)
    if missing:
        text = f"{missing} of {len(wanted)} locations have no Health Gorilla id (tl-...): run $sync-location first."
        raise InputError(text, code="location-not-synced", expression=["Organization.identifier"])
    return [reference for reference in found if reference]


def resolve_tenant(reference: str, organizations: Organizations) -> str:
    """The tenant's id (``t-...``); InputError where the Organization has none."""
    found = health_gorilla_reference(reference, organizations, "t-")
    if found is None:
        text = "The Organization given as organization has no Health Gorilla id of a tenant (t-...)."
        raise InputError(text, code="tenant-not-known", expression=["Organization.identifier"])
    return found.partition("/")[2]
