"""Batches and transactions in Medplum's order and with its limits.

https://www.medplum.com/docs/fhir-datastore/fhir-batch-requests

All conditions are looked up first, in the order of the entries; then the entries run by method: DELETE, POST, PUT,
PATCH, GET.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from dataclasses import dataclass
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import conditional
from medplum_sandbox.medplum.outcomes import CREATED, OK, FhirError, UnforeseenError, bad_request, not_found
from medplum_sandbox.medplum.references import replace_urns
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.search_request import Query, condition_of, query_of

_ORDER = ("DELETE", "POST", "PUT", "PATCH", "GET", "HEAD")
MAX_UPDATES = 50
MAX_STRICT_ENTRIES = 8


@dataclass
class _Step:
    """One entry in progress: its request, and the result of its condition."""

    position: int
    method: str
    path: str
    query: Query | None
    resource: Json
    request: Json
    id: str | None = None
    assigned_id: str | None = None

    @property
    def conditional(self) -> bool:
        """Whether the entry depends on what a search finds."""
        return "ifNoneExist" in self.request or (self.query is not None and self.method != "GET")


def is_atomic(bundle: Json, features: list[str]) -> bool:
    """Whether the Bundle is atomic: a transaction in a project with the feature."""
    return bundle["type"] == "transaction" and "transaction-bundles" in features


def check_bundle(bundle: Any) -> Json:
    """The Bundle; 400 if it cannot be run."""
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise bad_request("Not a bundle")
    if bundle.get("type") not in ("batch", "transaction"):
        raise bad_request(f"Unrecognized bundle type: {bundle.get('type')}")
    if not bundle.get("entry"):
        raise bad_request("Missing bundle entries")
    return bundle


def run(repository: Repository, bundle: Json, *, features: list[str]) -> Json:
    """The response Bundle. Each entry carries its own status; an atomic transaction raises its first failure."""
    with repository.world.transaction():
        results = _Run(repository, bundle["entry"], atomic=is_atomic(bundle, features)).run()
    return {"resourceType": "Bundle", "type": f"{bundle['type']}-response", "entry": results}


class _Run:
    """One Bundle's entries, their results by position."""

    def __init__(self, repository: Repository, entries: list[Json], *, atomic: bool) -> None:
        self._repository = repository
        self._entries = entries
        self._atomic = atomic
        self._results: dict[int, Json] = {}
        self._urns: dict[str, str] = {}
        self._throttled: FhirError | None = None

    def run(self) -> list[Json]:
        steps = [step for n, entry in enumerate(self._entries) if (step := self._try(n, self._prepare, n, entry))]
        if self._atomic:
            _check_limits(steps)
        for step in sorted(steps, key=lambda s: _ORDER.index(s.method)):
            result = self._try(step.position, self._execute, step)
            if result is not None:
                self._results[step.position] = result
        return [self._results[n] for n in range(len(self._entries))]

    def _try(self, position: int, action: Any, *arguments: Any) -> Any:
        """The result of the action. A failure becomes the entry's result; after the first 429 no entry runs."""
        if self._throttled is None:
            try:
                with self._repository.world.transaction():
                    return action(*arguments)
            except FhirError as error:
                if self._atomic or (isinstance(error, UnforeseenError) and action == self._prepare):
                    raise
                if error.status == 429:
                    self._throttled = error
                failure = error
        else:
            failure = self._throttled
        self._results[position] = {"response": {"outcome": failure.outcome, "status": str(failure.status)}}
        return None

    def _prepare(self, position: int, entry: Json) -> _Step:
        request = entry.get("request") or {}
        place = f"Bundle.entry[{position}].request"
        method = request.get("method")
        if not method:
            raise bad_request("Missing Bundle entry request method", f"{place}.method")
        if not request.get("url"):
            raise bad_request("Missing Bundle entry request URL", f"{place}.url")
        if method not in _ORDER:
            raise not_found()
        path, mark, text = request["url"].removeprefix("/").partition("?")
        step = _Step(position, method, path, query_of(text) if mark else None, entry.get("resource") or {}, request)
        self._look_up(step, place)
        full_url = entry.get("fullUrl", "")
        id_ = step.id or step.assigned_id
        if full_url.startswith("urn:") and id_ and "resourceType" in step.resource:
            self._urns[full_url] = f"{step.resource['resourceType']}/{id_}"
        return step

    def _look_up(self, step: _Step, place: str) -> None:
        """Finds the resource of a conditional entry, or the id that a new one will get."""
        if step.method == "POST":
            step.assigned_id = str(uuid.uuid4())
            if "ifNoneExist" in step.request:
                found = self._repository.matching_ids(step.path, condition_of(step.request["ifNoneExist"]))
                step.id = found[0] if len(found) == 1 else None
        elif step.query is not None and step.method in ("PUT", "PATCH", "DELETE"):
            found = self._repository.matching_ids(step.path, step.query)
            if len(found) > 1:
                raise bad_request(f"Conditional {step.method} matched multiple resources", f"{place}.url")
            step.id = found[0] if found else None
            if not found and step.method == "PUT":
                if step.resource.get("id"):
                    raise bad_request("Cannot provide ID for create by update")
                step.assigned_id = str(uuid.uuid4())
        elif step.method == "PUT":
            step.id = step.path.partition("/")[2] or None

    def _execute(self, step: _Step) -> Json:
        resource = replace_urns(step.resource, self._urns) if self._urns else step.resource
        if step.method == "GET":
            return self._get(step)
        if "$" in step.path or "/" in step.path.partition("/")[2] or step.method == "HEAD":
            raise not_found()
        if step.method == "POST":
            return self._post(step, resource)
        if step.method == "PUT":
            return self._put(step, resource)
        kind, _, id_ = step.path.partition("/")
        id_ = step.id or id_
        if step.conditional:
            self._repository.strike_conflict(step.method, kind)
        if step.method == "PATCH":
            if not id_:
                raise not_found()
            return self._answer(self._repository.patch(kind, id_, _patch_of(resource)))
        if id_:
            self._repository.delete(kind, id_)
        return {"response": {"outcome": OK, "status": "200"}}

    def _get(self, step: _Step) -> Json:
        kind, *rest = step.path.split("/")
        if not rest:
            found = self._repository.search(kind, step.query or [])
        elif len(rest) == 1 and not rest[0].startswith("$") and kind[:1].isupper():
            return self._answer(self._repository.read(kind, rest[0]))
        elif rest[1:] == ["_history"]:
            found = self._repository.history(kind, rest[0], step.query or [])
        elif len(rest) == 3 and rest[1] == "_history":
            return self._answer(self._repository.vread(kind, rest[0], rest[2]))
        else:
            raise not_found()
        return {"response": {"outcome": OK, "status": "200"}, "resource": found}

    def _post(self, step: _Step, resource: Json) -> Json:
        if not step.path or "/" in step.path:
            raise not_found()
        check_type(resource, step.path)
        if "ifNoneExist" not in step.request:
            return self._answer(self._repository.create(resource, assigned_id=step.assigned_id), created=True)
        query = condition_of(step.request["ifNoneExist"])
        found, created = conditional.create(self._repository, resource, query, assigned_id=step.assigned_id)
        return self._answer(found, created=created)

    def _put(self, step: _Step, resource: Json) -> Json:
        kind = step.path.partition("/")[0]
        if step.query is not None:
            if resource.get("resourceType") != kind:
                raise bad_request("Search type must match resource type for conditional update")
            if step.id is None:
                found, created = conditional.update(
                    self._repository, resource, step.query, assigned_id=step.assigned_id
                )
                return self._answer(found, created=created)
            self._repository.strike_conflict("PUT", kind)
            return self._answer(self._repository.update({**resource, "id": step.id}))
        check_type(resource, kind)
        if resource.get("id") != step.id:
            raise bad_request("Incorrect resource ID")
        if_match = etag_version(step.request.get("ifMatch"))
        return self._answer(self._repository.update(resource, if_match=if_match))

    def _answer(self, resource: Json, *, created: bool = False) -> Json:
        response: Json = {"outcome": CREATED if created else OK, "status": "201" if created else "200"}
        response["location"] = f"{resource['resourceType']}/{resource['id']}"
        return {"response": response, "resource": self._repository.view(resource)}


def check_type(resource: Any, expected: str) -> None:
    """400 for a body of another type than the path names."""
    found = resource.get("resourceType") if isinstance(resource, dict) else None
    if found != expected:
        raise bad_request(f"Incorrect resource type: expected {expected}, but found {found or '<EMPTY>'}")


def etag_version(text: str | None) -> str | None:
    """The version of a quoted ETag; anything else is ignored, as Medplum does."""
    if text is None:
        return None
    quoted = text.removeprefix("W/")
    return quoted[1:-1] if len(quoted) > 2 and quoted[0] == quoted[-1] == '"' else None


def _check_limits(steps: list[_Step]) -> None:
    if sum(step.method in ("PUT", "PATCH", "DELETE") for step in steps) > MAX_UPDATES:
        raise bad_request("Transaction contains more update operations than allowed")
    if len(steps) > MAX_STRICT_ENTRIES and any(step.conditional for step in steps):
        raise bad_request("Transaction requires strict isolation but has too many entries")


def _patch_of(resource: Json) -> Any:
    """The operations of a JSON Patch inside a Binary."""
    if resource.get("resourceType") != "Binary":
        raise bad_request("Patch entry must include a Binary resource")
    try:
        return json.loads(base64.b64decode(resource.get("data", "")))
    except (ValueError, binascii.Error):
        raise bad_request("Decoded PATCH body must be an array") from None
