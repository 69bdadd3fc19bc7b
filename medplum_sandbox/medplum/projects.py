"""Sets up a project: its owner and the ClientApplications that call the API."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.references import reference_to
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.world import Actor, ProjectInfo, World


def new_project(
    world: World,
    name: str = "Contract",
    *,
    features: Sequence[str] = ("bots", "cron"),
    client_admin: bool = True,
    user_fhir_quota: int | None = None,
    second_client: bool = False,
    client_id: str | None = None,
    client_secret: str | None = None,
    client_name: str = "contract client",
    project_id: str | None = None,
) -> ProjectInfo:
    """A project as Medplum's registration leaves it, with a client that has been made its administrator."""
    project_id = project_id or str(uuid.uuid4())
    owner_id = str(uuid.uuid4())
    email = f"owner-{project_id[:8]}@example.org"
    owner_reference = {"reference": f"Practitioner/{owner_id}", "display": "Project Owner"}
    repository = Repository(world, Actor(project_id, {"profile": owner_reference}, {}, admin=True, free=True))
    with world.transaction():
        user = repository.create({"resourceType": "User", "firstName": "Project", "lastName": "Owner", "email": email})
        project: Json = {
            "resourceType": "Project",
            "name": name,
            "owner": {"reference": f"User/{user['id']}", "display": email},
            "features": [*features],
        }
        if user_fhir_quota is not None:
            project["systemSetting"] = [{"name": "userFhirQuota", "valueInteger": user_fhir_quota}]
        made = repository.create(project, assigned_id=project_id)
        _owner(repository, owner_id, email)
        user_reference = {"reference": f"User/{user['id']}", "display": email}
        _membership(repository, made, user_reference, owner_reference, admin=True)
        secret = client_secret or secrets.token_hex(32)
        client = _client(repository, made, client_name, secret, admin=client_admin, id=client_id)
        plain_secret = secrets.token_hex(32) if second_client else None
        plain = _client(repository, made, "plain client", plain_secret, admin=False) if plain_secret else None
    load_quota(world, made)
    return ProjectInfo(
        project_id=project_id,
        client_id=client["id"],
        client_secret=secret,
        owner_profile_id=owner_id,
        owner_email=email,
        plain_client_id=plain["id"] if plain else None,
        plain_client_secret=plain_secret,
    )


def load_quota(world: World, project: Json) -> None:
    """Takes over the quota that a project sets for its members."""
    for setting in project.get("systemSetting", ()):
        if setting["name"] == "userFhirQuota":
            world.quotas.limits[project["id"]] = setting["valueInteger"]


def _owner(repository: Repository, id: str, email: str) -> None:
    practitioner = {
        "resourceType": "Practitioner",
        "name": [{"given": ["Project"], "family": "Owner"}],
        "telecom": [{"system": "email", "use": "work", "value": email}],
    }
    repository.create(practitioner, assigned_id=id)


def _client(
    repository: Repository, project: Json, name: str, secret: str, *, admin: bool, id: str | None = None
) -> Json:
    client = repository.create({"resourceType": "ClientApplication", "name": name, "secret": secret}, assigned_id=id)
    reference = reference_to(client)
    _membership(repository, project, reference, reference, admin=admin)
    return client


def _membership(repository: Repository, project: Json, user: Json, profile: Json, *, admin: bool) -> None:
    membership: Json = {
        "resourceType": "ProjectMembership",
        "project": reference_to(project),
        "user": user,
        "profile": profile,
    }
    repository.create(membership | ({"admin": True} if admin else {}))
