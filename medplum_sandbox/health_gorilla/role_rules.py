"""The checks of a PractitionerRole before an account is created or changed (the documents' tables, row by row)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from medplum_sandbox.health_gorilla import codes
from medplum_sandbox.health_gorilla.outcomes import refused
from medplum_sandbox.health_gorilla.state import State
from medplum_sandbox.health_gorilla.wire import Refused
from medplum_sandbox.json import Json

_CONTAINED = "PractitionerRole.contained[0]"


@dataclass(frozen=True)
class Draft:
    """A valid request for an account."""

    tenant: str
    npi: str | None
    login: str | None
    role: Json
    practitioner: Json


def check_structure(resource: Any, kind: str) -> Json:
    """The resource if it is FHIR R4 of this type, else 400; the answer names elements, never values."""
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        raise refused(400, "structure", f"The body is not a {kind}.")
    try:
        get_fhir_model_class(kind).model_validate(resource)
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in e["loc"]) for e in error.errors(include_input=False)})
        raise refused(400, "structure", f"Not a valid {kind}.", location=places) from None
    return resource


class RoleRules:
    """The rules, for one state. Each method refuses or returns what it found."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._status = state.switches.rule_status

    def draft(self, resource: Any, *, home: str | None = None) -> Draft:
        """The requested account. ``home`` is the tenant of the account to change, None to create one."""
        creating = home is None
        role = check_structure(resource, "PractitionerRole")
        self._check_meta(role, creating=creating)
        practitioner = self._contained(role)
        clinical = self._check_codes(role, practitioner)
        self._check_profiles(practitioner, clinical=clinical)
        self._check_identifiers(practitioner)
        npi = self._check_npi(practitioner, clinical=clinical)
        self._check_name(practitioner, npi)
        self._check_telecom(practitioner)
        login = self._login(practitioner, required=creating or self._state.switches.login_required_on_update)
        tenant = self._tenant(role, home or self._state.tenant_id)
        self._check_locations(role, tenant)
        return Draft(tenant, npi, login, self._clean_role(role), self._clean_practitioner(practitioner))

    def _no(self, text: str, place: str = "PractitionerRole") -> Refused:
        return refused(self._status, "business-rule", text, location=[place])

    def _check_meta(self, role: Json, *, creating: bool) -> None:
        if codes.USER_PROFILE not in role.get("meta", {}).get("profile", []):
            raise self._no("meta.profile must be the hg-user profile.", "PractitionerRole.meta.profile")
        for tag in role["meta"].get("tag", []):
            if tag.get("system") != codes.SYSTEM or tag.get("code") not in codes.TAGS:
                raise self._no("meta.tag knows VERIFIED and NO_SUBSCRIPTIONS only.", "PractitionerRole.meta.tag")
        if creating and role.get("active") is not True:
            raise self._no("active must be true to create an account.", "PractitionerRole.active")

    def _contained(self, role: Json) -> Json:
        reference = role.get("practitioner", {}).get("reference", "")
        for one in role.get("contained", []):
            if one["resourceType"] == "Practitioner" and one.get("id") and reference == f"#{one['id']}":
                return dict(one)
        raise self._no("practitioner must refer to a contained Practitioner.", "PractitionerRole.practitioner")

    def _check_codes(self, role: Json, practitioner: Json) -> bool:
        concepts = role.get("code", [])
        found = concepts[0].get("coding", []) if len(concepts) == 1 else []
        administrative = [c.get("code") for c in found if c.get("system") == codes.ADMINISTRATIVE_ROLE]
        clinical = [c.get("code") for c in found if c.get("system") == codes.PRACTITIONER_ROLE]
        if not administrative:
            raise self._no("code[0] must carry an administrative-role.", "PractitionerRole.code")
        if not self._state.switches.open_role_codes and not codes.ADMINISTRATIVE_ROLES.issuperset(administrative):
            raise self._no("The administrative-role is unknown.", "PractitionerRole.code")
        has_npi = any(codes.is_npi(i) for i in practitioner.get("identifier", []))
        if clinical and not has_npi:
            raise self._no("A clinician needs an NPI.", f"{_CONTAINED}.identifier")
        if has_npi and not clinical:
            raise self._no("A clinician needs a practitioner-role in the same code.", "PractitionerRole.code")
        self._check_security_role(role)
        return has_npi

    def _check_security_role(self, role: Json) -> None:
        for extension in role.get("extension", []):
            if extension["url"] == codes.SECURITY_ROLE_EXTENSION:
                found = extension.get("valueCodeableConcept", {}).get("coding", [])
                if not any(
                    c.get("system") == codes.SECURITY_ROLE and c.get("code") in codes.SECURITY_ROLES for c in found
                ):
                    raise self._no("The security role is unknown.", "PractitionerRole.extension")
            elif extension["url"] != codes.OLD_SECURITY_ROLE_EXTENSION:
                raise self._no("An extension is unknown.", "PractitionerRole.extension")

    def _check_profiles(self, practitioner: Json, *, clinical: bool) -> None:
        wanted = {codes.PRACTITIONER_PROFILE} | ({codes.US_CORE_PROFILE} if clinical else set())
        if not wanted.issubset(practitioner.get("meta", {}).get("profile", [])):
            raise self._no("The contained Practitioner lacks a profile.", f"{_CONTAINED}.meta.profile")

    def _check_identifiers(self, practitioner: Json) -> None:
        sso = {f for f in self._state.organizations if f.startswith("f-")} - self._state.labs
        for number, identifier in enumerate(practitioner.get("identifier", [])):
            place = f"{_CONTAINED}.identifier[{number}]"
            if not identifier.get("value"):
                raise self._no("An identifier has no value.", place)
            assigner = identifier.get("assigner", {}).get("reference", "")
            if codes.is_account_number(identifier):
                if assigner.removeprefix("Organization/") not in self._state.labs or "/" not in assigner:
                    raise self._no("The lab of an account number is unknown.", place)
            elif codes.is_provider_number(identifier):
                if assigner.removeprefix("Organization/") not in sso or "/" not in assigner:
                    raise self._no("The facility for single sign-on is unknown.", place)
            elif identifier.get("system") not in (codes.NPI_SYSTEM, codes.SYSTEM):
                raise self._no("An identifier is of no known type.", place)

    def _check_npi(self, practitioner: Json, *, clinical: bool) -> str | None:
        if not clinical:
            return None
        numbers = [i["value"] for i in practitioner["identifier"] if codes.is_npi(i)]
        if len(numbers) != 1 or not self._state.directory.by_npi(numbers[0]):
            raise self._no("The NPI is not in the NPI directory.", f"{_CONTAINED}.identifier")
        return str(numbers[0])

    def _check_name(self, practitioner: Json, npi: str | None) -> None:
        place = f"{_CONTAINED}.name"
        names = practitioner.get("name", [])
        if not names or not names[0].get("family") or not names[0].get("given"):
            raise self._no("The real name, with family and given, is required.", place)
        if npi is None:
            return
        if not any(_same_name(names[0], record["name"][0]) for record in self._state.directory.by_npi(npi)):
            raise self._no("The name does not match the NPI directory.", place)

    def _check_telecom(self, practitioner: Json) -> None:
        for point in practitioner.get("telecom", []):
            if not point.get("system") or not point.get("value"):
                raise self._no("A telecom needs system and value.", f"{_CONTAINED}.telecom")
            if point["system"] == "email" and "@" not in point["value"]:
                raise self._no("An e-mail address is malformed.", f"{_CONTAINED}.telecom")

    def _login(self, practitioner: Json, *, required: bool) -> str | None:
        place = f"{_CONTAINED}.extension"
        extensions = practitioner.get("extension", [])
        # One document writes the URL without /R4: who shows it so takes it so.
        plain = {codes.LOGIN_PLAIN} if self._state.switches.login_extension == "plain" else set()
        urls = {codes.LOGIN} | plain
        if any(e["url"] not in urls | {codes.PASSWORD} for e in extensions):
            raise self._no("An extension of the Practitioner is unknown.", place)
        if any(e["url"] == codes.PASSWORD and not e.get("valueString") for e in extensions):
            raise self._no("The password is empty.", place)
        logins = [e.get("valueString", "").strip() for e in extensions if e["url"] in urls]
        if not logins and not required:
            return None
        if len(logins) != 1 or not logins[0]:
            raise self._no("Exactly one login (username) is required.", place)
        return str(logins[0])

    def _tenant(self, role: Json, home: str) -> str:
        reference = role.get("organization", {}).get("reference")
        if reference is None:
            return home
        tenant = reference.removeprefix("Organization/")
        if tenant not in self._state.own_tenants or "/" not in reference:
            raise self._no("The tenant is unknown.", "PractitionerRole.organization")
        return str(tenant)

    def _check_locations(self, role: Json, tenant: str) -> None:
        for location in role.get("location", []):
            place = self._state.organizations.get(codes.bare(location.get("reference", "")), {})
            if not place.get("id", "").startswith("tl-") or codes.bare(place["partOf"]["reference"]) != tenant:
                raise self._no("A location is not one of this tenant.", "PractitionerRole.location")

    def _clean_role(self, role: Json) -> Json:
        kept = {key: value for key, value in role.items() if key not in ("contained", "practitioner", "id")}
        if "extension" in kept and self._state.switches.old_security_role_url == "dropped":
            kept["extension"] = [e for e in kept["extension"] if e["url"] != codes.OLD_SECURITY_ROLE_EXTENSION]
        return {key: value for key, value in kept.items() if value != []}

    @staticmethod
    def _clean_practitioner(practitioner: Json) -> Json:
        """Without login (stored separately) and password (dropped at once)."""
        return {key: value for key, value in practitioner.items() if key != "extension"}


def _same_name(sent: Json, published: Json) -> bool:
    """Family and given match exactly; text, prefix and suffix if they are sent: the samples omit some."""
    if sent.get("family") != published["family"] or sent.get("given") != published["given"]:
        return False
    return all(sent[key] == published.get(key) for key in ("text", "prefix", "suffix") if key in sent)
