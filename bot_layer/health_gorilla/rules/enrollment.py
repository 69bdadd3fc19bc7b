"""Whether and how a clinician is enrolled in Health Gorilla: from what was gathered to one decision, without any I/O.

The rules are those of the integration's guide "User Management": NPI required, name as in the NPI directory, the
Health Gorilla id consistent on every sync, lab account numbers merged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.periods import current
from bot_layer.health_gorilla.rules import accounts, names, practitioner_role
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.accounts import Account
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.names import NameMatch, PersonName
from bot_layer.health_gorilla.rules.settings import SYSTEM, HealthGorilla

# What a partner's test system may have for an NPI: nothing that would read as a second value in a search.
_MADE_UP_NPI = re.compile(r"[A-Za-z0-9\-]{1,20}")
_MISMATCH = {
    NameMatch.FAMILY_DIFFERS: ("The family name differs from the NPI directory's.", "Practitioner.name.family"),
    NameMatch.GIVEN_DIFFERS: ("The given name differs from the NPI directory's first one.", "Practitioner.name.given"),
    NameMatch.MISSING: ("The Practitioner needs a name with family and given.", "Practitioner.name"),
    NameMatch.DIRECTORY_NAME_MISSING: ("The NPI directory has no complete name for this NPI.", "Practitioner.name"),
}


@dataclass(frozen=True)
class DirectoryEntry:
    """A record of the NPI directory: its own id, the Health Gorilla id of the person, and the name."""

    id: str
    health_gorilla_id: str = field(repr=False)
    name: PersonName = field(repr=False)
    npis: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, practitioner: Json, now: datetime) -> DirectoryEntry:
        """The record as a value, at the time ``now``."""
        own_id = str(practitioner.get("id") or "")
        given = objects(practitioner.get("identifier"))
        health_gorilla_id = next(iter(identifiers.values_of(given, SYSTEM)), own_id)
        name = names.official(names.read(practitioner.get("name"), now))
        return cls(own_id, health_gorilla_id, name, tuple(identifiers.npis(given)))


@dataclass(frozen=True)
class Enrollment:
    """An account that Health Gorilla has: the PractitionerRole, and its person and name where the answer had them."""

    role: Json = field(repr=False)
    person: Json | None = field(default=None, repr=False)
    name: PersonName = field(default=PersonName(), repr=False)

    @classmethod
    def read(cls, role: Json, person: Json | None, now: datetime) -> Enrollment:
        """The account as a value, at the time ``now``."""
        return cls(role, person, names.official(names.read((person or {}).get("name"), now)))

    @property
    def id(self) -> str | None:
        """The person's Health Gorilla id."""
        return accounts.person_id(self.role, self.person)

    @property
    def login(self) -> str | None:
        """The login, if Health Gorilla shows it."""
        return accounts.login_of(self.person)


@dataclass(frozen=True)
class Enroll:
    """Create the account; ``logins`` and ``emails`` are tried in turn in ``payload(login, email)``, which is sent.

    ``directory_id`` is the person's Health Gorilla id; empty for a person who is not in the directory.
    """

    action: ClassVar = "enrolled"
    account: Account
    logins: tuple[str, ...] = field(repr=False)
    directory_id: str = field(repr=False)
    emails: tuple[str, ...] = field(default=(), repr=False)

    def payload(self, login: str, email: str | None = None) -> Json:
        """The PractitionerRole with this login and e-mail address."""
        return accounts.build(replace(self.account, login=login, email=email))


@dataclass(frozen=True)
class Update:
    """Put the PractitionerRole: ``payload`` is whole, or empty where there is nothing to do; ``added`` are the
    identifiers that it gains.

    ``emails`` are tried in turn; ``required`` is False where an address is all that would change.
    """

    found: Enrollment
    payload: Json = field(default_factory=dict, repr=False)
    added: Sequence[Json] = field(default=(), repr=False)
    emails: tuple[str, ...] = field(default=(), repr=False)
    required: bool = True

    @property
    def action(self) -> str:
        """``updated``, or ``unchanged`` where there is nothing to do."""
        return "updated" if self.payload else "unchanged"

    @property
    def moves(self) -> bool:
        """True where the locations change."""
        return bool(self.payload) and accounts.locations_of(self.payload) != accounts.locations_of(self.found.role)

    @property
    def only_moves(self) -> bool:
        """True where nothing but the locations changes."""
        return self.moves and not (self.changes("code") or self.changes("extension") or self.added)

    def with_email(self, email: str | None) -> Json:
        """The payload with this e-mail address."""
        return self.payload if email is None else accounts.with_email(self.payload, email)

    def changes(self, element: str) -> bool:
        """True where this element of the PractitionerRole changes."""
        return bool(self.payload) and self.payload.get(element) != self.found.role.get(element)


Decision = Enroll | Update


def npi_of(clinician: Clinician, settings: HealthGorilla) -> str:
    """The clinician's one valid NPI. InputError without one, ReviewNeeded with several."""
    found = clinician.npis
    where = ["Practitioner.identifier.where(system='http://hl7.org/fhir/sid/us-npi')"]
    if not found:
        raise InputError("The Practitioner needs an NPI.", code="npi-missing", expression=where)
    if len(found) > 1:
        raise ReviewNeeded("The Practitioner has several NPIs: remove the wrong ones.", code="npi-ambiguous")
    if not is_npi(found[0], check_digit=settings.npi_check_digit):
        text = "The NPI does not have ten digits and a valid check digit."
        raise InputError(text, code="npi-invalid", expression=where)
    return found[0]


def is_npi(value: str, *, check_digit: bool) -> bool:
    """Whether a text is an NPI, or without the check digit, what a test system may have for one."""
    return identifiers.is_npi(value) or (not check_digit and _MADE_UP_NPI.fullmatch(value) is not None)


def one_health_gorilla_id(found: Sequence[str]) -> str | None:
    """The only one of the ids, or None; ReviewNeeded with several."""
    if len(found) > 1:
        raise ReviewNeeded("The resource has several Health Gorilla ids.", code="health-gorilla-id-ambiguous")
    return found[0] if found else None


def require_active(clinician: Clinician) -> None:
    """Raise InputError for a practitioner who is marked inactive: no account is made or changed for them."""
    if not clinician.is_active:
        where = ["Practitioner.active"]
        raise InputError("The Practitioner is inactive.", code="practitioner-inactive", expression=where)


def pick(found: Sequence[Enrollment]) -> Enrollment | None:
    """The enrollment in the tenant, or None; ReviewNeeded for several persons, or where it was switched off."""
    ids = {enrollment.id for enrollment in found}
    if len(ids) > 1:
        raise ReviewNeeded("Health Gorilla has several persons with this NPI.", code="enrolment-ambiguous")
    active = [enrollment for enrollment in found if enrollment.role.get("active") is not False]
    if found and not active:
        raise ReviewNeeded("The account in Health Gorilla is inactive.", code="enrolment-inactive")
    # The oldest id first, so that the same one is taken each time.
    return min(active, key=lambda enrollment: str(enrollment.role.get("id", "")), default=None)


def directory_entry(entries: Sequence[DirectoryEntry]) -> DirectoryEntry:
    """The one directory record of an NPI. InputError for none, ReviewNeeded for several."""
    different = {entry.id: entry for entry in entries}
    if not different:
        raise InputError("The NPI is not in Health Gorilla's NPI directory.", code="npi-not-in-directory")
    if len(different) > 1:
        raise ReviewNeeded("The NPI directory has several records of this NPI.", code="directory-ambiguous")
    return next(iter(different.values()))


def require_same_id(clinician: Clinician, health_gorilla_id: str | None) -> None:
    """Raise ReviewNeeded where Medplum keeps another Health Gorilla id than Health Gorilla itself."""
    kept = one_health_gorilla_id(clinician.health_gorilla_ids)
    if kept and health_gorilla_id and kept != health_gorilla_id:
        raise ReviewNeeded(
            "The Health Gorilla id in Medplum differs from the account's: find out which person is meant.",
            code="health-gorilla-id-mismatch",
        )


def require_name(clinician: Clinician, directory_name: PersonName) -> None:
    """Raise InputError where no name of the practitioner matches the directory's; it says which part differs."""
    found = names.match(clinician.names, directory_name)
    if found is not NameMatch.MATCH:
        text, where = _MISMATCH[found]
        raise InputError(text, code=found.value, expression=[where])


def plan_enrollment(
    clinician: Clinician,
    entry: DirectoryEntry,
    requested: AccountRequest,
    settings: HealthGorilla,
    *,
    role: str | None = None,
) -> Enroll:
    """The account to create, with ``role`` as practitioner role. InputError or ReviewNeeded where it must not be."""
    number = npi_of(clinician, settings)
    require_same_id(clinician, entry.health_gorilla_id)
    require_name(clinician, entry.name)
    name = entry.name.element
    account = Account(
        name=name,
        identifiers=identifiers.merge([identifiers.npi(number)], requested.identifiers),
        login="",
        codes=[accounts.PROVIDER, practitioner_role.coding(role or practitioner_role.DEFAULT)],
        organization=settings.tenant if settings.is_foreign_tenant else None,
        locations=requested.locations or (),
        invite=settings.invite,
        notify=settings.notify,
        password=requested.password,
    )
    known = kept_login(clinician, settings)
    candidates = (known,) if known else accounts.login_candidates(name, f"{settings.tenant_id}|{number}")
    return Enroll(account, candidates, entry.health_gorilla_id, tuple(requested.emails))


def kept_login(clinician: Clinician, settings: HealthGorilla) -> str | None:
    """The login that Medplum keeps for the tenant: it keeps that of the configured one only."""
    return clinician.login if settings.is_configured_tenant else None


def login_to_send(clinician: Clinician, found: Enrollment, settings: HealthGorilla) -> str | None:
    """The login to send where Health Gorilla does not show it: Medplum's, or in another tenant the generated one."""
    if settings.is_configured_tenant:
        return clinician.login
    return accounts.login_candidates(found.name.element, f"{settings.tenant_id}|{npi_of(clinician, settings)}")[0]


def plan_update(
    clinician: Clinician,
    found: Enrollment,
    requested: AccountRequest,
    *,
    login: str | None = None,
    role: Json | None = None,
) -> Update:
    """What an account lacks. ReviewNeeded where the ids contradict each other, or its person can't be read.

    ``login`` is the tenant's where it is not the one that Medplum keeps. ``role`` is the PractitionerRole with its new
    codes where more than the locations changes.
    """
    require_same_id(clinician, found.id)
    person = found.person or {}
    old = person.get("identifier", [])
    merged = identifiers.merge(old, requested.identifiers)
    keys = {identifiers.key(identifier) for identifier in old}
    added = [identifier for identifier in requested.identifiers if identifiers.key(identifier) not in keys]
    wanted = found.role if role is None else role
    wanted = wanted if requested.locations is None else accounts.with_locations(wanted, requested.locations)
    emails = () if accounts.emails_of(person) else tuple(requested.emails)
    required = bool(added) or wanted != found.role
    if not required and not emails:
        return Update(found)
    if found.person is None:
        # A PUT replaces the whole account: without its person the name and every number would be lost.
        text = "Health Gorilla does not show the person of the account: a change would lose data."
        raise ReviewNeeded(text, code="enrolment-unreadable")
    # A PUT without the login might remove it: Medplum's is sent where Health Gorilla does not show its own.
    changed = {**person, "identifier": merged} if merged else person
    changed = accounts.with_login(changed, login or clinician.login)
    return Update(found, accounts.with_person(wanted, changed), added, emails, required)


def write_back(practitioner: Json, health_gorilla_id: str | None, login: str | None, now: datetime) -> Json:
    """The practitioner with id and login; itself where it has them in force. A login that it has stays."""
    known = identifiers.values_of(current(practitioner.get("identifier"), now), SYSTEM)
    changed = practitioner
    if health_gorilla_id and not known:
        added = identifiers.health_gorilla(health_gorilla_id)
        changed = {**changed, "identifier": [*changed.get("identifier", []), added]}
    return accounts.with_login(changed, login)


def require_found(found: Enrollment | None) -> Enrollment:
    """The enrollment; ReviewNeeded where it vanished while it was being changed."""
    if found is None:
        raise ReviewNeeded("The account in Health Gorilla was removed during the call.", code="enrolment-vanished")
    return found
