"""The server itself as the actor of its own work."""

from __future__ import annotations

from medplum_sandbox.medplum.world import Actor

SYSTEM_REFERENCE = {"reference": "system"}


def system_actor(project: str) -> Actor:
    """The server in a project: without quota and access policy."""
    membership = {"resourceType": "ProjectMembership", "id": "system", "profile": SYSTEM_REFERENCE}
    return Actor(project=project, membership=membership, profile={}, admin=True, free=True)
