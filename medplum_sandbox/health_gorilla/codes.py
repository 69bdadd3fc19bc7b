"""The systems, profiles and extension URLs of the documents, as spelled there, and how to distinguish identifiers."""

from __future__ import annotations

from medplum_sandbox.json import Json

SYSTEM = "https://www.healthgorilla.com"
NPI_SYSTEM = "http://hl7.org/fhir/sid/us-npi"
ADMINISTRATIVE_ROLE = "https://www.healthgorilla.com/administrative-role"
PRACTITIONER_ROLE = "http://hl7.org/fhir/practitioner-role"
SECURITY_ROLE = "https://www.healthgorilla.com/security-role"
ORGANIZATION_TYPE = "https://www.healthgorilla.com/fhir/organization-type"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"

USER_PROFILE = "https://healthgorilla.com/fhir/StructureDefinition/hg-user"
PRACTITIONER_PROFILE = "https://healthgorilla.com/fhir/StructureDefinition/hg-practitioner"
US_CORE_PROFILE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner"

_EXTENSIONS = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/"
LOGIN = _EXTENSIONS + "hg-practitioner-login"
LOGIN_PLAIN = "https://www.healthgorilla.com/fhir/StructureDefinition/hg-practitioner-login"
PASSWORD = _EXTENSIONS + "hg-practitioner-password"
SECURITY_ROLE_EXTENSION = _EXTENSIONS + "practitionerrole-security-role"
OLD_SECURITY_ROLE_EXTENSION = _EXTENSIONS + "practitionalrole-security-role"

TAGS = frozenset({"VERIFIED", "NO_SUBSCRIPTIONS"})
ADMINISTRATIVE_ROLES = frozenset({"provider", "officeManager", "staff", "nurse", "billingStaff"})
SECURITY_ROLES = frozenset({"administrator", "readonly", "staff"})


def is_typed(identifier: Json, code: str, text: str) -> bool:
    """Whether an identifier is of the type: by coding, or by text as one of the documents writes it."""
    kind = identifier.get("type", {})
    if any(c.get("system") == V2_0203 and c.get("code") == code for c in kind.get("coding", [])):
        return True
    return bool(kind.get("text") == text)


def is_npi(identifier: Json) -> bool:
    """Whether it is an NPI, typed or not."""
    return identifier.get("system") == NPI_SYSTEM


def is_account_number(identifier: Json) -> bool:
    """Whether it is a physician's account number at a lab."""
    return is_typed(identifier, "AN", "Account number")


def is_provider_number(identifier: Json) -> bool:
    """Whether it is the UUID for single sign-on."""
    return is_typed(identifier, "PRN", "Provider Number")


def bare(reference: str) -> str:
    """The id at the end of a reference, or of a bare id as search parameters take it."""
    return reference.rpartition("/")[2]
