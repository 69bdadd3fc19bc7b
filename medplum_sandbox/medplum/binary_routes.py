"""The endpoints of Binary, which accept and return raw bytes, and of the storage URLs."""

from __future__ import annotations

import hmac
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import binary
from medplum_sandbox.medplum.calls import Answer, Call, with_charset
from medplum_sandbox.medplum.fhir_routes import body_of, fhir_answer, version_headers
from medplum_sandbox.medplum.outcomes import not_found
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.world import World

_FHIR_JSON = "application/fhir+json"
_PLAIN = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"


def create(world: World, call: Call) -> Answer:
    """``POST /Binary``: FHIR JSON with base64 data, or any other body as it is."""
    repository = Repository(world, call.actor)
    body = _resource_of(call)
    if body is not None:
        with world.transaction():
            made = repository.create(body)
        shown = repository.view(made)
        data = body.get("data")
        if data == "" or isinstance(data, dict):
            shown["data"] = data  # answered as it came, and not kept
    else:
        content_type = call.content_type or "application/octet-stream"
        context = call.headers.get("x-security-context")
        made = repository.create_binary(call.body, content_type, security_context=context)
        shown = _with_url(world, repository, made)
    location = f"{world.base_url}/fhir/R4/Binary/{made['id']}"
    return fhir_answer(shown, status=201, headers={**version_headers(made), "Location": location})


def read(world: World, call: Call) -> Answer:
    """``GET /Binary/{id}``: the content; the metadata only for exactly ``Accept: application/fhir+json``."""
    repository = Repository(world, call.actor)
    found = repository.read("Binary", call.parameters["id"])
    if call.headers.get("accept") == _FHIR_JSON:
        data: Json = {"data": found["data"]} if "data" in found else {}
        return fhir_answer({**repository.view(found), **data}, headers=version_headers(found))
    content = binary.content_of(world, f"Binary/{found['id']}")
    return Answer(200, content or b"", with_charset(found["contentType"]), version_headers(found))


def update(world: World, call: Call) -> Answer:
    """``PUT /Binary/{id}``: FHIR JSON makes a new version; raw bytes replace the content under the same version."""
    repository = Repository(world, call.actor)
    id_ = call.parameters["id"]
    body = _resource_of(call)
    if body is not None:
        with world.transaction():
            made = repository.update({**body, "id": id_})
            binary.keep_content(world.store, made)
        return fhir_answer(repository.view(made), headers=version_headers(made))
    with world.transaction():
        stored = repository.stored("Binary", id_)
        if stored is None or stored.deleted:
            raise not_found()
        current = stored.resource()
        made = repository.update({**current, "contentType": call.content_type or current["contentType"]})
        world.store.put_blob(id_, call.body)
    return fhir_answer(_with_url(world, repository, made), headers=version_headers(made))


def storage(world: World, call: Any) -> Answer:
    """``GET /storage/{id}/{version}``: no token, but a valid signature."""
    query = dict(call.query)
    expires, given = query.get("Expires"), query.get("Signature")
    if expires is None or given is None:
        return Answer(401, b"Unauthorized", _PLAIN)
    if not expires.isdigit() or int(expires) < world.clock().timestamp():
        return Answer(410, b"URL has expired", _HTML)
    id_, version = call.parameters["id"], call.parameters["version"]
    signed = f"{expires}&Project={query['Project']}" if "Project" in query else expires
    if not hmac.compare_digest(binary.signature(world, f"/storage/{id_}/{version}", signed), given):
        return Answer(401, b"Invalid signature", _HTML)
    with world.lock:
        stored, content = world.store.get(id_), world.store.blob(id_)
    if stored is None or stored.deleted or content is None:
        return Answer(404, b"Not Found", _PLAIN)
    return Answer(200, content, with_charset(stored.resource()["contentType"]))


def _resource_of(call: Call) -> Json | None:
    """The Binary resource that the body is, or None where it is content."""
    body = body_of(call) if (call.content_type or "").startswith(_FHIR_JSON) else {}
    return body if body.get("resourceType") == "Binary" else None


def _with_url(world: World, repository: Repository, resource: Json) -> Json:
    project = repository.actor.project if repository.actor.extended else None
    url = binary.storage_url(world, resource["id"], resource["meta"]["versionId"], project)
    return {**repository.view(resource), "url": url}
