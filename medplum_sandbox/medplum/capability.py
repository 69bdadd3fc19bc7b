"""The endpoints without a token: health, the CapabilityStatement, and the SMART configuration."""

from __future__ import annotations

from functools import cache
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.definitions.tables import fhir_types, parameters

_INTERACTIONS = ("read", "vread", "update", "patch", "delete", "history-instance", "create", "search-type")
_SECURITY = ("OAuth", "Basic", "SMART-on-FHIR")
_SECURITY_SYSTEM = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_COMMON = ("_compartment", "_profile", "_security", "_source", "_tag")
_US_CORE_PATIENT = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
_US_CORE_PARAMETERS = (
    ("ethnicity", "us-core-ethnicity"),
    ("gender-identity", "us-core-patient-gender-identity"),
    ("race", "us-core-race"),
)
# Parameters that HL7 defines once for Patient, Practitioner, Person and RelatedPerson.
_SHARED = frozenset(
    (
        *("address", "address-city", "address-country", "address-postalcode", "address-state", "address-use"),
        *("birthdate", "email", "family", "gender", "given", "phone", "phonetic", "telecom"),
    )
)
_PERSONS = ("Patient", "Person", "Practitioner", "RelatedPerson")


def health(version: str) -> Json:
    """``GET /healthcheck``: bots probe the version to know how the server behaves."""
    return {
        "ok": True,
        "version": version,
        "platform": "linux",
        "runtime": "sandbox",
        "postgres": True,
        "redis": True,
    }


def capability_statement(base_url: str, version: str) -> Json:
    """``GET /fhir/R4/metadata``: the types of the search table, in their order; every other type answers too."""
    urls = [
        {"url": "authorize", "valueUri": f"{base_url}/oauth2/authorize"},
        {"url": "token", "valueUri": f"{base_url}/oauth2/token"},
    ]
    security = {
        "cors": True,
        "service": [{"coding": [{"system": _SECURITY_SYSTEM, "code": code}]} for code in _SECURITY],
        "extension": [
            {"url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris", "extension": urls}
        ],
    }
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "kind": "instance",
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "software": {"name": "medplum", "version": version},
        "implementation": {"description": "A sandbox that answers as a Medplum server", "url": f"{base_url}/fhir/R4"},
        "rest": [{"mode": "server", "security": security, "resource": _resources()}],
    }


def smart_configuration(base_url: str) -> Json:
    """``GET /fhir/R4/.well-known/smart-configuration``, as the recorded server lists it."""
    return {
        "issuer": f"{base_url}/",
        "jwks_uri": f"{base_url}/.well-known/jwks.json",
        "authorization_endpoint": f"{base_url}/oauth2/authorize",
        "grant_types_supported": [
            "client_credentials",
            "authorization_code",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "token_endpoint": f"{base_url}/oauth2/token",
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS256", "RS384", "ES384"],
        "scopes_supported": [
            *("patient/*.rs", "user/*.cruds", "openid", "fhirUser"),
            *("launch", "launch/patient", "offline_access", "online_access"),
        ],
        "response_types_supported": ["code"],
        "introspection_endpoint": f"{base_url}/oauth2/introspect",
        "capabilities": [
            *("authorize-post", "permission-v1", "permission-v2", "client-confidential-asymmetric"),
            *("client-confidential-symmetric", "client-public", "context-banner", "context-ehr-patient"),
            *("context-ehr-encounter", "context-standalone-patient", "context-style", "launch-ehr"),
            *("launch-standalone", "permission-offline", "permission-patient", "permission-user", "sso-openid-connect"),
        ],
        "code_challenge_methods_supported": ["S256"],
    }


@cache
def _resources() -> tuple[Json, ...]:
    """FHIR's own types: a server does not name those that Medplum adds, nor SubscriptionStatus."""
    return tuple(_resource(name) for name in sorted(fhir_types()) if name != "SubscriptionStatus")


def _resource(name: str) -> Json:
    profiles: Json = {"supportedProfile": [_US_CORE_PATIENT]} if name == "Patient" else {}
    return {
        "type": name,
        "profile": f"http://hl7.org/fhir/StructureDefinition/{name}",
        **profiles,
        "interaction": [{"code": code} for code in _INTERACTIONS],
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": False,
        "conditionalCreate": True,
        "conditionalUpdate": True,
        "conditionalRead": "not-supported",
        "conditionalDelete": "single",
        "referencePolicy": ["literal", "logical", "local"],
        "searchParam": _search_parameters(name),
    }


def _search_parameters(name: str) -> list[Json]:
    known = parameters(name)
    if not known:
        return []
    found: list[Any] = [{"name": "_id", "type": "token"}, {"name": "_lastUpdated", "type": "date"}]
    found += [{"name": "_project", "type": "token"}]
    found += [{"name": common, "type": known[common].type} for common in _COMMON]
    us_core = dict(_US_CORE_PARAMETERS) if name == "Patient" else {}
    for parameter in known.values():
        if parameter.name in us_core:
            definition = f"http://hl7.org/fhir/us/core/SearchParameter/{us_core[parameter.name]}"
        else:
            stem = "individual" if name in _PERSONS and parameter.name in _SHARED else name
            definition = f"http://hl7.org/fhir/SearchParameter/{stem}-{parameter.name}"
        if parameter.name not in _COMMON:
            found.append({"name": parameter.name, "definition": definition, "type": parameter.type})
    return found
