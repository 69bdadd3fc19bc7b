"""Searches as they run: which resources match, and the Bundle that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import policy, quota
from medplum_sandbox.medplum.definitions.search_table import Parameter
from medplum_sandbox.medplum.definitions.tables import is_resource_type, parameters
from medplum_sandbox.medplum.indexing import references, split_reference
from medplum_sandbox.medplum.outcomes import bad_request, forbidden, invalid, issue
from medplum_sandbox.medplum.search_conditions import Clause
from medplum_sandbox.medplum.search_request import (
    MAX_COUNT,
    Filter,
    Include,
    Query,
    SearchRequest,
    parse_search,
    query_of,
)
from medplum_sandbox.medplum.search_sql import clause, conjunction, order
from medplum_sandbox.medplum.store import Stored

if TYPE_CHECKING:
    from medplum_sandbox.medplum.repository import Repository

_SUBSETTED = {"system": "http://hl7.org/fhir/v3/ObservationValue", "code": "SUBSETTED"}
_NOT_IN_SUMMARY = {"true": ("text", "contained"), "data": ("text",)}


def find(repository: Repository, resource_type: str, query: Query, *, limit: int) -> list[Stored]:
    """The first matches of a search, charged as one; the query may name no page and no order of its own."""
    request = parse_search(resource_type, query)
    compiled = _compile(repository, request)
    return repository.store.select(
        compiled.sql, compiled.arguments, order=_order(repository, request), limit=limit, offset=0
    )


def bundle(repository: Repository, resource_type: str, query: Query) -> Json:
    """The searchset that answers a search."""
    request = parse_search(resource_type, query)
    compiled = _compile(repository, request)
    count = request.count or 0
    found = repository.store.select(
        compiled.sql, compiled.arguments, order=_order(repository, request), limit=count + 1, offset=request.offset
    )
    matches = [stored.resource() for stored in found[:count]]
    included = _included(repository, request, matches)
    answer: Json = {"resourceType": "Bundle", "type": "searchset"}
    entries = [_entry(repository, r, "match", request) for r in matches]
    entries += [_entry(repository, r, "include", None) for r in included]
    if entries:
        answer["entry"] = entries
    if request.total in ("accurate", "estimate"):
        answer["total"] = repository.store.count(compiled.sql, compiled.arguments)
    answer["link"] = _links(repository.world.base_url, request, more=len(found) > count > 0, entries=bool(entries))
    return answer


def matches_criteria(repository: Repository, stored_id: str, resource_type: str, criteria: str) -> bool:
    """Whether a stored resource meets the query of an access policy, such as ``Patient?active=true``."""
    request = parse_search(resource_type, query_of(criteria.partition("?")[2]))
    one = Filter("_id", stored_id)
    compiled = _conjunction(repository, resource_type, [one, *request.filters])
    return repository.store.count(compiled.sql, compiled.arguments) > 0


def _compile(repository: Repository, request: SearchRequest) -> Clause:
    """Charges the search, and refuses what cannot be searched."""
    repository.charge(quota.SEARCH)
    resource_type = request.resource_type
    if not is_resource_type(resource_type):
        raise invalid([issue("error", "structure", "Unknown resource type")])
    if resource_type == "Binary":
        raise bad_request("Cannot search on Binary resource type")
    if repository.actor.free:
        return _conjunction(repository, resource_type, request.filters)
    rules = policy.rules_for(repository.actor, resource_type, "search")
    if not rules:
        raise forbidden()
    limits = [rule["criteria"] for rule in rules if rule.get("criteria")]
    if len(limits) < len(rules):  # one rule grants all of the type
        return _conjunction(repository, resource_type, request.filters)
    return _conjunction(repository, resource_type, request.filters, limits)


def _conjunction(repository: Repository, resource_type: str, filters: Any, limits: list[str] | None = None) -> Clause:
    clauses = [clause(f, resource_type, repository.key) for f in filters]
    if limits:
        alternatives = [
            conjunction(
                [
                    clause(f, resource_type, repository.key)
                    for f in parse_search(resource_type, _criteria(text)).filters
                ],
                resource_type,
                repository.actor.project,
            )
            for text in limits
        ]
        sql = " OR ".join(f"({one.sql})" for one in alternatives)
        clauses.append(Clause(f"({sql})", tuple(a for one in alternatives for a in one.arguments)))
    return conjunction(clauses, resource_type, repository.actor.project)


def _criteria(text: str) -> Query:
    return query_of(text.partition("?")[2])


def _order(repository: Repository, request: SearchRequest) -> str:
    return order(request, repository.key)


def _entry(repository: Repository, resource: Json, mode: str, request: SearchRequest | None) -> Json:
    shown = repository.view(resource)
    if request is not None and (request.fields or request.summary):
        shown = _subset(shown, request)
    url = f"{repository.world.base_url}/fhir/R4/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "search": {"mode": mode}, "resource": shown}


def _subset(resource: Json, request: SearchRequest) -> Json:
    """The named elements, marked as a part of the whole."""
    if request.fields:
        kept = {k: v for k, v in resource.items() if k in ("resourceType", "id") or k in request.fields}
    else:
        kept = {k: v for k, v in resource.items() if k not in _NOT_IN_SUMMARY.get(request.summary or "", ())}
    meta = resource["meta"]
    return {**kept, "meta": {**meta, "tag": [*meta.get("tag", ()), _SUBSETTED]}}


def _links(base_url: str, request: SearchRequest, *, more: bool, entries: bool) -> list[Json]:
    links = [{"relation": "self", "url": request.link(base_url)}]
    if not entries:
        return links
    count = request.count or 0
    links.append({"relation": "first", "url": request.link(base_url, offset=0)})
    if more:
        links.append({"relation": "next", "url": request.link(base_url, offset=request.offset + count)})
    if request.offset > 0:
        before = max(0, request.offset - count)
        links.append({"relation": "previous", "url": request.link(base_url, offset=before)})
    return links


def _included(repository: Repository, request: SearchRequest, matches: list[Json]) -> list[Json]:
    """What ``_include`` and ``_revinclude`` add, each resource once."""
    seen = {resource["id"] for resource in matches}
    found: list[Json] = []
    for include in request.include:
        parameter = _reference_parameter(include, "include")
        for resource in matches:
            for text in references(resource, parameter):
                target = _included_target(repository, text, include)
                if target is not None and target["id"] not in seen:
                    seen.add(target["id"])
                    found.append(target)
    for include in request.revinclude:
        _reference_parameter(include, "revinclude")
        for target in _referring(repository, include, matches):
            if target["id"] not in seen:
                seen.add(target["id"])
                found.append(target)
    return found


def _reference_parameter(include: Include, word: str) -> Parameter:
    found = (
        parameters(include.resource_type).get(include.parameter) if is_resource_type(include.resource_type) else None
    )
    if found is None or found.type != "reference":
        raise bad_request(f"Invalid {word} parameter: {include.text}")
    return found


def _included_target(repository: Repository, reference: str, include: Include) -> Json | None:
    """The target, charged as a read also where it is not there."""
    kind, id_ = split_reference(reference)
    if not kind or (include.target and include.target != kind):
        return None
    repository.charge(quota.READ)
    stored = repository.stored(kind, id_)
    return stored.resource() if stored and not stored.deleted else None


def _referring(repository: Repository, include: Include, matches: list[Json]) -> list[Json]:
    if not matches:
        return []
    targets = ",".join(f"{m['resourceType']}/{m['id']}" for m in matches)
    compiled = _conjunction(repository, include.resource_type, [Filter(include.parameter, targets)])
    found = repository.store.select(compiled.sql, compiled.arguments, order="r.rid", limit=MAX_COUNT, offset=0)
    return [stored.resource() for stored in found]
