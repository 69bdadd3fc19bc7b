"""The endpoints of a project's administrator: bots, clients, secrets, memberships."""

from __future__ import annotations

import secrets as chance
import uuid
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.bots import charge
from medplum_sandbox.medplum.calls import Answer, Call, json_answer, outcome_answer, parse_json, shown
from medplum_sandbox.medplum.outcomes import OK, FhirError, forbidden, issue, outcome
from medplum_sandbox.medplum.quota import WRITE
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.runs import project_of
from medplum_sandbox.medplum.world import World

DEFAULT_RUNTIME = "vmcontext"
SOURCE_TYPE = "text/typescript"
DEFAULT_SOURCE = b"""import { BotEvent, MedplumClient } from '@medplum/core';

export async function handler(medplum: MedplumClient, event: BotEvent): Promise<any> {
  // Your code here
}
"""


def read_project(world: World, call: Call) -> Answer:
    """``GET /admin/projects/{id}``: the caller's own project, whatever the id."""
    require_admin(call)
    project = project_of(world, call.actor.project)
    return json_answer(200, {"project": {key: project[key] for key in ("id", "name", "secret") if project.get(key)}})


def create_bot(world: World, call: Call) -> Answer:
    """A Bot with its ProjectMembership. Of the body only these fields count; an identifier does not."""
    body = admin_body(call)
    if not body.get("name"):
        raise missing("Bot name is required", "name")
    source = Repository(world, call.actor).create_binary(DEFAULT_SOURCE, SOURCE_TYPE)
    bot: Json = {
        "resourceType": "Bot",
        "name": body["name"],
        "description": body.get("description"),
        "runtimeVersion": body.get("runtimeVersion") or DEFAULT_RUNTIME,
        "sourceCode": {"contentType": SOURCE_TYPE, "title": "index.ts", "url": f"Binary/{source['id']}"},
    }
    made = Repository(world, call.actor).create({key: value for key, value in bot.items() if value is not None})
    join_project(world, call, made, access_policy=body.get("accessPolicy"))
    return json_answer(201, shown(made))


def create_client(world: World, call: Call) -> Answer:
    """A ClientApplication with a secret, and its ProjectMembership, which has no admin right."""
    body = admin_body(call)
    if not body.get("name"):
        raise missing("Client name is required", "name")
    client: Json = {
        "resourceType": "ClientApplication",
        "name": body["name"],
        "secret": chance.token_hex(32),
        "description": body.get("description"),
        "redirectUri": body.get("redirectUri"),
    }
    made = Repository(world, call.actor).create({key: value for key, value in client.items() if value is not None})
    join_project(world, call, made, access_policy=body.get("accessPolicy"))
    return json_answer(201, shown(made))


def set_secrets(world: World, call: Call) -> Answer:
    """Replaces the whole list. The quota is charged before the body is checked."""
    secrets = admin_body(call)
    charge(world, call, WRITE)
    project = project_of(world, call.actor.project)
    updated = Repository(world, system_actor(call.actor.project)).update({**project, "secret": secrets})
    # Without secrets before and after nothing changes, and the Project is answered as it is.
    shown_secrets = {"secret": secrets} if secrets or "secret" in project else {}
    return json_answer(200, {**Repository(world, call.actor).view(updated), **shown_secrets})


def read_member(world: World, call: Call) -> Answer:
    """A ProjectMembership of the project."""
    require_admin(call)
    found = Repository(world, system_actor(call.actor.project)).read("ProjectMembership", call.parameters["member"])
    return json_answer(200, shown(found))


def update_member(world: World, call: Call) -> Answer:
    """Replaces a membership, for example to make a client an administrator or to give a bot an access policy."""
    body = admin_body(call)
    system = Repository(world, system_actor(call.actor.project))
    old = system.read("ProjectMembership", call.parameters["member"])
    fixed = {key: old[key] for key in ("resourceType", "id", "meta", "project", "user", "profile")}
    return json_answer(200, shown(system.update({**body, **fixed})))


def delete_member(world: World, call: Call) -> Answer:
    """Removes a member from the project."""
    require_admin(call)
    system = Repository(world, system_actor(call.actor.project))
    system.read("ProjectMembership", call.parameters["member"])
    system.delete("ProjectMembership", call.parameters["member"])
    return outcome_answer(200, OK)


def join_project(world: World, call: Call, profile: Json, *, access_policy: Json | None) -> Json:
    """The ProjectMembership of a Bot or client, written by the server: callers may not make one through FHIR."""
    reference = {"reference": f"{profile['resourceType']}/{profile['id']}", "display": profile["name"]}
    project = project_of(world, call.actor.project)
    membership: Json = {
        "resourceType": "ProjectMembership",
        "project": {"reference": f"Project/{project['id']}", "display": project["name"]},
        "user": reference,
        "profile": reference,
    }
    if access_policy:
        membership["accessPolicy"] = access_policy
    return Repository(world, system_actor(call.actor.project)).create(membership)


def admin_body(call: Call) -> Any:
    """The JSON body of an admin's request."""
    require_admin(call)
    return parse_json(call.body) if call.body else {}


def missing(text: str, expression: str) -> FhirError:
    """400 of a check outside of FHIR: its outcome has a random id."""
    found = issue("error", "invalid", text, expression=expression)
    return FhirError(400, outcome([found], id=str(uuid.uuid4())))


def require_admin(call: Call) -> None:
    """403 for anybody else."""
    if not call.actor.admin:
        raise forbidden()
