"""Who acts when nobody calls: the server itself."""

from __future__ import annotations

from medplum_sandbox.medplum.world import Actor

SYSTEM_REFERENCE = {"reference": "system"}


def system_actor(project: str) -> Actor:
    """The server at work in a project: no quota, no access policy."""
    membership = {"resourceType": "ProjectMembership", "id": "system", "profile": SYSTEM_REFERENCE}
    return Actor(project=project, membership=membership, profile={}, admin=True, free=True)
