"""Accounts for people without an NPI: office managers, billers, nurses. From what was gathered to one decision.

They carry an administrative role, a security role where one is requested, and no practitioner role ("PractitionerRole
Create", Non-Clinician Accounts). Nothing identifies them but the login, the identifier for single sign-on, and the
Health Gorilla id that Medplum keeps after the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json, codings
from bot_layer.fhir.outcomes import Issue, warning
from bot_layer.fhir.parameters import path_of
from bot_layer.health_gorilla.rules import accounts, enrollment, names
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.accounts import Account
from bot_layer.health_gorilla.rules.clinician import Clinician, security_role_of
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, Update
from bot_layer.health_gorilla.rules.names import NameMatch, PersonName
from bot_layer.health_gorilla.rules.settings import HealthGorilla

# The codes that the documents spell out; Health Gorilla has more, so others pass with a warning.
ADMINISTRATIVE_ROLES = {"provider": "Provider", "officeManager": "Office Manager", "staff": "Staff"}
SECURITY_ROLES = {"administrator": "Administrator", "readonly": "Read Only", "staff": "Staff"}
DEFAULT_ROLE = "staff"


@dataclass(frozen=True)
class Roles:
    """The roles that were asked for; None is left to the account, or for a new one to the default."""

    administrative: str | None = None
    security: str | None = None
    issues: Sequence[Issue] = ()


@dataclass(frozen=True)
class Person:
    """How an account of this person is recognized: Medplum's name and, in this tenant, its id and login."""

    clinician: Clinician = field(repr=False)
    health_gorilla_id: str | None = field(repr=False)
    login: str = field(repr=False)
    login_is_generated: bool = True

    @property
    def known_login(self) -> str | None:
        """The login; None for a generated one beside an id that leads to an account, which may have another one."""
        return self.clinician.login if self.health_gorilla_id else self.login


def require_no_npi(clinician: Clinician) -> None:
    """Raise InputError for a person with an NPI: such an account needs the NPI directory."""
    if clinician.npis:
        text = "The Practitioner has an NPI: enroll clinicians with $sync-practitioner."
        raise InputError(text, code="npi-present", expression=["Practitioner.identifier"])


def roles(administrative: str | None, security: str | None, clinician: Clinician) -> Roles:
    """The roles asked for by parameter, the security role else by the Practitioner's own extension.

    An administrative role that no document names is passed on with a warning; a security role gives rights, so an
    unknown one is an InputError.
    """
    wanted = security or clinician.security_role
    if wanted is not None and wanted not in SECURITY_ROLES:
        text = f"The security role must be one of {', '.join(SECURITY_ROLES)}."
        raise InputError(text, code="security-role-unknown", expression=[path_of("securityRole")])
    issues: list[Issue] = []
    if administrative and administrative not in ADMINISTRATIVE_ROLES:
        text = f"The role is none of {', '.join(ADMINISTRATIVE_ROLES)}: it was sent as given."
        issues.append(warning("role-unknown", text, expression=[path_of("role")]))
    return Roles(administrative, wanted, tuple(issues))


def person(clinician: Clinician, settings: HealthGorilla) -> Person:
    """Who the account is for. Id and login that Medplum keeps are those of the configured tenant."""
    kept = settings.is_configured_tenant
    login = enrollment.kept_login(clinician, settings)
    # One candidate only: it is made of the Practitioner's id, so if it is taken, it is this person's.
    made = accounts.login_candidates(real_name(clinician), f"{settings.tenant_id}|{clinician.id}", count=1)[0]
    known = enrollment.one_health_gorilla_id(clinician.health_gorilla_ids) if kept else None
    return Person(clinician, known, login or made, login in {None, made})


def pick(found: Sequence[Enrollment], who: Person) -> Enrollment | None:
    """The account with the id that Medplum keeps. ReviewNeeded where it is missing, a clinician's, or switched off."""
    mine = [account for account in found if account.id == who.health_gorilla_id]
    if who.health_gorilla_id and not mine:
        text = "Medplum has a Health Gorilla id, but the tenant has no account with it."
        raise ReviewNeeded(text, code="enrolment-vanished")
    if any(is_clinical(account.role) for account in mine):
        text = "The account in Health Gorilla is a clinician's, and the Practitioner has no NPI."
        raise ReviewNeeded(text, code="account-is-clinical")
    return enrollment.pick(mine)


def recognize(members: Sequence[Enrollment], who: Person, *, login_taken: bool = False) -> Enrollment | None:
    """The person's account among all of the tenant, for an answer that was lost or a login that is taken; or None.

    The name must be the same, and beside it the login or the identifier for single sign-on; or the login was made of
    this Practitioner's id and an earlier name. If Health Gorilla does not show logins, the name is enough only once it
    has said that the login is taken, and only for one that was made of this Practitioner's id: nobody else can have
    taken it. Before that, the account may be a namesake's.
    """
    own, digest = official(who.clinician), who.login.rpartition("-")[2]
    others = [account for account in members if not is_clinical(account.role)]
    same = [each for each in others if (own.family, own.given) == (each.name.family, each.name.given)]
    sure = [account for account in same if account.login == who.login or _signs_on_as(account, who)]
    if who.login_is_generated:
        logins = [(account, account.login or "") for account in others if account not in sure]
        sure += [each for each, login in logins if login != who.login and login.rpartition("-")[2] == digest]
    silent = [account for account in same if account.login is None]
    if sure or not (login_taken and who.login_is_generated):
        return enrollment.pick(sure)
    return enrollment.pick(silent) if len(silent) == 1 else None


def plan_account(who: Person, wanted: Roles, requested: AccountRequest, settings: HealthGorilla) -> Enroll:
    """The account to create."""
    account = Account(
        name=real_name(who.clinician),
        identifiers=list(requested.identifiers),
        login="",
        codes=[_administrative(wanted.administrative or DEFAULT_ROLE)],
        clinical=False,
        organization=settings.tenant if settings.is_foreign_tenant else None,
        locations=requested.locations or (),
        password=requested.password,
        security_role=_security(wanted.security) if wanted.security else None,
        invite=settings.invite,
        notify=settings.notify,
    )
    return Enroll(account, (who.login,), "", tuple(requested.emails))


def plan_update(who: Person, found: Enrollment, wanted: Roles, requested: AccountRequest) -> Update:
    """The difference of the roles applied to the account, with new identifiers and locations; else nothing."""
    role = with_roles(found.role, wanted)
    # The id that Medplum keeps is the configured tenant's: it says nothing about an account in another one.
    known = who.clinician if who.health_gorilla_id else replace(who.clinician, health_gorilla_ids=())
    return enrollment.plan_update(known, found, requested, login=who.known_login, role=role)


def with_roles(role: Json, wanted: Roles) -> Json:
    """The PractitionerRole with these roles; itself where it has them. Its other codings and extensions stay."""
    changed = role
    if wanted.administrative and accounts.code_of(role.get("code"), hg.ADMINISTRATIVE_ROLE) != wanted.administrative:
        others = [each for each in codings(role.get("code")) if each.get("system") != hg.ADMINISTRATIVE_ROLE]
        changed = {**changed, "code": [{"coding": [_administrative(wanted.administrative), *others]}]}
    if wanted.security and security_role_of(role) != wanted.security:
        kept = [found for found in role.get("extension", ()) if found.get("url") not in hg.SECURITY_ROLE_EXTENSIONS]
        new = {"url": hg.SECURITY_ROLE_EXTENSION, "valueCodeableConcept": _security(wanted.security)}
        changed = {**changed, "extension": [*kept, new]}
    return changed


def is_clinical(role: Json) -> bool:
    """True for a PractitionerRole with a practitioner role."""
    return accounts.code_of(role.get("code"), hg.PRACTITIONER_ROLE) is not None


def official(clinician: Clinician) -> PersonName:
    """The name to send: the official one, else the usual, else the first complete one that is not a former one."""
    chosen = names.official([name for name in clinician.names if any(name.given)])
    if not chosen.family or chosen.is_former:
        text = "The Practitioner needs a name with family and given."
        raise InputError(text, code=NameMatch.MISSING.value, expression=["Practitioner.name"])
    return chosen


def real_name(clinician: Clinician) -> Json:
    """The name as it is sent."""
    chosen = official(clinician).element
    # FHIR writes null for a word that has only an extension.
    lists = {
        key: [word for word in chosen.get(key) or () if isinstance(word, str)] for key in ("given", "prefix", "suffix")
    }
    spoken = " ".join([*lists["given"], chosen["family"]])
    kept = {key: words for key, words in lists.items() if words}
    return {"use": "official", "text": chosen.get("text") or spoken, "family": chosen["family"], **kept}


def _administrative(code: str) -> Json:
    return {"system": hg.ADMINISTRATIVE_ROLE, "code": code, "display": ADMINISTRATIVE_ROLES.get(code, code)}


def _security(code: str) -> Json:
    display = SECURITY_ROLES[code]
    return {"coding": [{"system": hg.SECURITY_ROLE, "code": code, "display": display}], "text": display}


def _signs_on_as(account: Enrollment, who: Person) -> bool:
    own = who.clinician.sign_on
    numbers = (account.person or {}).get("identifier", ())
    return any(identifiers.kind(number) == "PRN" and number.get("value") == own for number in numbers)
