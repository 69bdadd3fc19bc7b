"""Interactions whose target is found by a search (https://hl7.org/fhir/R4/http.html#ccreate, #cond-update)."""

from __future__ import annotations

from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request, multiple_matches, not_found
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.search_request import Query


def create(
    repository: Repository, resource: Json, query: Query, *, assigned_id: str | None = None
) -> tuple[Json, bool]:
    """(resource, whether it is new): If-None-Exist."""
    resource_type = resource["resourceType"]
    with repository.world.transaction():
        found = _one_match(repository, "POST", resource_type, query)
        if found is not None:
            return repository.existing(resource_type, found), False
        return repository.create(resource, assigned_id=assigned_id), True


def update(
    repository: Repository, resource: Json, query: Query, *, assigned_id: str | None = None
) -> tuple[Json, bool]:
    """(resource, whether it is new): PUT with a query. ``assigned_id`` is the id that a batch chose for a new one."""
    resource_type = resource["resourceType"]
    with repository.world.transaction():
        found = _one_match(repository, "PUT", resource_type, query)
        expected = assigned_id or resource.get("id")
        if found is not None:
            if expected not in (None, found):
                raise bad_request("Resource ID did not match resolved ID", f"{resource_type}.id")
            return repository.update({**resource, "id": found}), False
        if resource.get("id") and assigned_id is None:
            raise bad_request("Cannot perform create as update with client-assigned ID", f"{resource_type}.id")
        return repository.create(resource, assigned_id=assigned_id), True


def patch(repository: Repository, resource_type: str, query: Query, operations: Any) -> Json:
    """Patches the one match; none is 404."""
    with repository.world.transaction():
        found = _one_match(repository, "PATCH", resource_type, query)
        if found is None:
            raise not_found()
        return repository.patch(resource_type, found, operations)


def delete(repository: Repository, resource_type: str, query: Query) -> None:
    """Deletes the one match; none is no error."""
    with repository.world.transaction():
        found = _one_match(repository, "DELETE", resource_type, query)
        if found is not None:
            repository.delete(resource_type, found)


def _one_match(repository: Repository, method: str, resource_type: str, query: Query) -> str | None:
    """The id that the query finds; several are 412."""
    found = repository.matching_ids(resource_type, query)
    repository.strike_conflict(method, resource_type)
    if len(found) > 1:
        raise multiple_matches()
    return found[0] if found else None
