"""The endpoints of the FHIR API: HTTP around the repository."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import batch, conditional, jobs
from medplum_sandbox.medplum.calls import FHIR_TYPE, Answer, Call, outcome_answer, parse_json
from medplum_sandbox.medplum.outcomes import OK, accepted, bad_request
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.search_request import condition_of
from medplum_sandbox.medplum.validation import validate
from medplum_sandbox.medplum.world import Actor, World

_FORM = "application/x-www-form-urlencoded"


def search_type(world: World, call: Call) -> Answer:
    """``GET /{type}``."""
    return fhir_answer(Repository(world, call.actor).search(call.parameters["type"], call.query))


def search_by_form(world: World, call: Call) -> Answer:
    """``POST /{type}/_search``."""
    form = parse_qsl(call.body.decode(), keep_blank_values=True) if (call.content_type or "").startswith(_FORM) else []
    return fhir_answer(Repository(world, call.actor).search(call.parameters["type"], [*call.query, *form]))


def create(world: World, call: Call) -> Answer:
    """``POST /{type}``, with If-None-Exist or without."""
    repository = Repository(world, call.actor)
    resource = body_of(call)
    batch.check_type(resource, call.parameters["type"])
    condition = call.headers.get("if-none-exist")
    with world.transaction():
        if condition is None:
            made, created = repository.create(resource), True
        else:
            made, created = conditional.create(repository, resource, condition_of(condition))
        return resource_answer(repository, made, created=created, minimal=minimal(call))


def check(world: World, call: Call) -> Answer:  # noqa: ARG001  # an endpoint like every other
    """``POST /{type}/$validate``: nothing is stored. The type in the path does not count."""
    validate(body_of(call))
    return outcome_answer(200, OK)


def read(world: World, call: Call) -> Answer:
    """``GET /{type}/{id}``."""
    repository = Repository(world, call.actor)
    return resource_answer(repository, repository.read(call.parameters["type"], call.parameters["id"]))


def vread(world: World, call: Call) -> Answer:
    """``GET /{type}/{id}/_history/{version}``."""
    repository = Repository(world, call.actor)
    found = repository.vread(call.parameters["type"], call.parameters["id"], call.parameters["version"])
    return resource_answer(repository, found)


def history(world: World, call: Call) -> Answer:
    """``GET /{type}/{id}/_history``."""
    repository = Repository(world, call.actor)
    return fhir_answer(repository.history(call.parameters["type"], call.parameters["id"], call.query))


def update(world: World, call: Call) -> Answer:
    """``PUT /{type}/{id}``."""
    repository = Repository(world, call.actor)
    resource = body_of(call)
    if resource.get("resourceType") != call.parameters["type"]:
        raise bad_request("Incorrect resource type")
    if resource.get("id") != call.parameters["id"]:
        raise bad_request("Incorrect resource ID")
    with world.transaction():
        made = repository.update(resource, if_match=batch.etag_version(call.headers.get("if-match")))
        return resource_answer(repository, made, minimal=minimal(call))


def conditional_update(world: World, call: Call) -> Answer:
    """``PUT /{type}?query``. Without a query it matches everything of the type."""
    repository = Repository(world, call.actor)
    resource = body_of(call)
    if resource.get("resourceType") != call.parameters["type"]:
        raise bad_request("Search type must match resource type for conditional update")
    with world.transaction():
        made, created = conditional.update(repository, resource, call.query)
        return resource_answer(repository, made, created=created, minimal=minimal(call))


def patch(world: World, call: Call) -> Answer:
    """``PATCH /{type}/{id}``. If-Match is ignored, as the recorded server does."""
    repository = Repository(world, call.actor)
    with world.transaction():
        made = repository.patch(call.parameters["type"], call.parameters["id"], call.parsed_body())
        return resource_answer(repository, made)


def conditional_patch(world: World, call: Call) -> Answer:
    """``PATCH /{type}?query``."""
    repository = Repository(world, call.actor)
    with world.transaction():
        made = conditional.patch(repository, call.parameters["type"], call.query, call.parsed_body())
        return resource_answer(repository, made)


def delete(world: World, call: Call) -> Answer:
    """``DELETE /{type}/{id}``."""
    Repository(world, call.actor).delete(call.parameters["type"], call.parameters["id"])
    return outcome_answer(200, OK)


def conditional_delete(world: World, call: Call) -> Answer:
    """``DELETE /{type}?query``."""
    conditional.delete(Repository(world, call.actor), call.parameters["type"], call.query)
    return outcome_answer(200, OK)


def run_batch(world: World, call: Call) -> Answer:
    """``POST /fhir/R4``: at once, or as a job with ``Prefer: respond-async``."""
    bundle = batch.check_bundle(body_of(call))
    features = project_features(world, call.actor)
    if not jobs.wants_async(call.headers):
        return fhir_answer(batch.run(Repository(world, call.actor), bundle, features=features))
    if batch.is_atomic(bundle, features):
        raise bad_request("Transaction batches cannot be executed asynchronously", "Bundle.type")

    def work() -> list[Json]:
        # A job waits for quota where a request is refused, and its results show all of ``meta``.
        actor = replace(call.actor, extended=True, unmetered=True)
        results = batch.run(Repository(world, actor), bundle, features=features)
        made = Repository(world, actor).create_binary(orjson.dumps(results), "application/fhir+json")
        return [{"name": "results", "valueReference": {"reference": f"Binary/{made['id']}"}}]

    url = jobs.start_job(world, call.actor, f"{world.base_url}/fhir/R4", work)
    return outcome_answer(202, accepted(url), headers={"Content-Location": url})


def job_status(world: World, call: Call) -> Answer:
    """``GET /fhir/R4/job/{id}/status``."""
    status, job = jobs.read_job(world, call.actor, call.parameters["id"])
    answer = resource_answer(Repository(world, call.actor), job)
    return Answer(status, answer.body, answer.content_type, answer.headers)


def project_features(world: World, actor: Actor) -> list[str]:
    """What the caller's project has switched on."""
    with world.lock:
        stored = world.store.get(actor.project)
    assert stored is not None
    return list(stored.resource().get("features", ()))


def body_of(call: Call) -> Json:
    """The JSON object of the body; ``{}`` where the content type is none that the server parses."""
    if "json" not in (call.content_type or ""):
        return {}
    parsed: Any = parse_json(call.body) if call.body else {}
    return parsed if isinstance(parsed, dict) else {}


def minimal(call: Call) -> bool:
    """Whether the caller wants no body back."""
    return call.headers.get("prefer") == "return=minimal"


def fhir_answer(resource: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """A resource or Bundle as FHIR JSON."""
    return Answer(status, orjson.dumps(resource), FHIR_TYPE, headers or {})


def resource_answer(repository: Repository, resource: Json, *, created: bool = False, minimal: bool = False) -> Answer:
    """A single resource with its version's headers."""
    headers = version_headers(resource)
    if created:
        headers["Location"] = f"{repository.world.base_url}/fhir/R4/{resource['resourceType']}/{resource['id']}"
    body = repository.view(resource)
    answer = fhir_answer(body, status=201 if created else 200, headers=headers)
    return Answer(answer.status, b"" if minimal else answer.body, answer.content_type, headers)


def version_headers(resource: Json) -> dict[str, str]:
    """ETag and Last-Modified of a version."""
    meta = resource["meta"]
    modified = format_datetime(datetime.fromisoformat(meta["lastUpdated"]), usegmt=True)
    return {"ETag": f'W/"{meta["versionId"]}"', "Last-Modified": modified}
