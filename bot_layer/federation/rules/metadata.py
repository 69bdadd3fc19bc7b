"""The metadata of the federated responder.

https://hl7.org/fhir/R4/capabilitystatement.html and https://www.hl7.org/fhir/smart-app-launch/conformance.html
"""

from __future__ import annotations

from typing import Final

from bot_layer.federation.rules.token import DEFAULT_SCOPES
from bot_layer.fhir.json import Json

_SECURITY_SERVICE: Final = "http://terminology.hl7.org/CodeSystem/restful-security-service"
_OAUTH_URIS: Final = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_SEARCHES: Final = {
    "_id": "token", "patient": "reference", "category": "token", "type": "token", "status": "token",
    "date": "date", "period": "date", "_lastUpdated": "date",
}  # fmt: skip


def capability_statement(fhir_url: str, token_url: str) -> Json:
    """One resource type, one interaction, and the address of the token endpoint."""
    oauth: Json = {"url": _OAUTH_URIS, "extension": [{"url": "token", "valueUri": token_url}]}
    service = {"coding": [{"system": _SECURITY_SERVICE, "code": "SMART-on-FHIR"}]}
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-22",
        "kind": "instance",
        "implementation": {"description": "Federated document queries", "url": fhir_url},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {"extension": [oauth], "service": [service]},
                "resource": [
                    {
                        "type": "DocumentReference",
                        "interaction": [{"code": "search-type"}],
                        "searchParam": [{"name": name, "type": kind} for name, kind in _SEARCHES.items()],
                    }
                ],
            }
        ],
    }


def smart_configuration(token_url: str) -> Json:
    """The SMART configuration: how a client gets a token."""
    return {
        "token_endpoint": token_url,
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "scopes_supported": list(DEFAULT_SCOPES),
        "capabilities": ["permission-v1", "permission-v2"],
    }
