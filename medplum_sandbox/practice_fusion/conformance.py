"""What the source says about itself."""

from __future__ import annotations

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.switches import ALL_TYPES, Switches

OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


def smart_configuration(token_url: str, switches: Switches) -> Json:
    """The SMART configuration. Practice Fusion lists no token methods and no scopes in it."""
    body: Json = {
        "token_endpoint": token_url,
        "grant_types_supported": ["client_credentials"],
        "capabilities": [
            "client-confidential-asymmetric",
            "client-confidential-symmetric",
            "permission-v1",
            "permission-v2",
        ],
    }
    if not switches.odd_refusals:
        body["token_endpoint_auth_methods_supported"] = sorted(switches.token_methods)
        body["token_endpoint_auth_signing_alg_values_supported"] = sorted(switches.algorithms)
        body["scopes_supported"] = [
            f"system/{kind}.{'read' if syntax == 'v1' else 'rs'}"
            for syntax in sorted(switches.scope_syntax)
            for kind in switches.types
        ]
    return body


def capability_statement(token_url: str, switches: Switches) -> Json:
    """The CapabilityStatement, with the token endpoint as the older of the two ways of discovery has it."""
    rest: Json = {
        "mode": "server",
        "resource": [
            {"type": kind, "interaction": [{"code": "read"}, {"code": "search-type"}]} for kind in (*ALL_TYPES, "Group")
        ],
    }
    if switches.discovery != "none":
        rest["security"] = {"extension": [{"url": OAUTH_URIS, "extension": [{"url": "token", "valueUri": token_url}]}]}
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [rest],
    }
