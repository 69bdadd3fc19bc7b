"""Execution of searches: matches, and the Bundle of the response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import additions, policy, quota
from medplum_sandbox.medplum.definitions.tables import is_resource_type, mandatory_elements, summary_elements, type_of
from medplum_sandbox.medplum.indexing import references, split_reference
from medplum_sandbox.medplum.outcomes import DatabaseError, bad_request, forbidden, invalid, issue
from medplum_sandbox.medplum.search_conditions import Clause
from medplum_sandbox.medplum.search_request import Filter, Include, Query, SearchRequest, parse_search, query_of
from medplum_sandbox.medplum.search_sql import Index, clause, conjunction, order, where
from medplum_sandbox.medplum.search_strategy import Details
from medplum_sandbox.medplum.store import Store, Stored
from medplum_sandbox.medplum.world import Actor, World

_SUBSETTED = {"system": "http://hl7.org/fhir/v3/ObservationValue", "code": "SUBSETTED"}
_ALWAYS = frozenset(("resourceType", "id", "meta"))
_INCLUDED_AT_MOST = 1000
_DEEPEST_INCLUDE = 5


class Searchable(Protocol):
    """What a search needs of its repository."""

    world: World
    actor: Actor

    @property
    def store(self) -> Store:
        """The tables; hold the world's lock."""
        ...

    def note_use(self, resource_type: str, interaction: str) -> None:
        """Remember that the caller needed a right."""
        ...

    @property
    def index(self) -> Index:
        """The index of this project."""
        ...

    def charge(self, units: int) -> None:
        """Takes units from the caller's quota, or raises 429."""
        ...

    def stored(self, resource_type: str, id: str) -> Stored | None:
        """The stored resource of this id in this project, deleted or not."""
        ...

    def view(self, resource: Json, *, charged: bool = True) -> Json:
        """The resource as the caller sees it."""
        ...


def find(repository: Searchable, resource_type: str, query: Query, *, limit: int) -> list[Stored]:
    """The first matches of a search, charged as one; the query may name no page and no order of its own."""
    request = parse_search(resource_type, query)
    compiled = _compile(repository, request)
    return repository.store.select(
        compiled.sql, compiled.arguments, order=order(request, repository.index), limit=limit, offset=0
    )


def bundle(repository: Searchable, resource_type: str, query: Query) -> Json:
    """The searchset that answers a search."""
    request = parse_search(resource_type, query)
    count = request.count or 0
    if count <= 0 and request.total not in ("accurate", "estimate"):
        return _nothing(repository, request)
    try:
        compiled = _compile(repository, request)
    except DatabaseError:
        order(request, repository.index)  # the server finds an unknown order before its database refuses a value
        raise
    sorting = order(request, repository.index) if count > 0 else "r.rid"
    found = repository.store.select(
        compiled.sql, compiled.arguments, order=sorting, limit=max(count, 0) + 1, offset=max(request.offset, 0)
    )
    matches = [stored.resource() for stored in found[:count]] if count > 0 else []
    answer: Json = {"resourceType": "Bundle", "type": "searchset"}
    entries = [_entry(repository, r, "match", request) for r in matches]
    entries += [_entry(repository, r, "include", request) for r in _included(repository, request, matches)]
    if entries:
        answer["entry"] = entries
    if request.total in ("accurate", "estimate"):
        answer["total"] = repository.store.count(compiled.sql, compiled.arguments)
    answer["link"] = _links(repository.world.base_url, request, more=len(found) > count > 0, entries=bool(entries))
    return answer


def _nothing(repository: Searchable, request: SearchRequest) -> Json:
    """The response to a search that asks for no matches: its conditions are not evaluated."""
    repository.charge(quota.SEARCH)
    _check_types(repository, request)
    link = {"relation": "self", "url": request.link(repository.world.base_url)}
    return {"resourceType": "Bundle", "type": "searchset", "link": [link]}


def matches_criteria(repository: Searchable, stored_id: str, resource_type: str, criteria: str) -> bool:
    """Whether a stored resource meets the query of an access policy, such as ``Patient?active=true``."""
    request = parse_search(resource_type, query_of(criteria.partition("?")[2]))
    one = Filter("_id", stored_id)
    compiled = _conjunction(repository, resource_type, (one, *request.filters))
    return repository.store.count(compiled.sql, compiled.arguments) > 0


def _compile(repository: Searchable, request: SearchRequest) -> Clause:
    """Charges the search, and refuses types that cannot be searched."""
    repository.charge(quota.SEARCH)
    _check_types(repository, request)
    if repository.actor.free:
        return _conjunction(repository, request.resource_type, request.filters)
    rules = policy.rules_for(repository.actor, request.resource_type, "search")
    limits = [rule["criteria"] for rule in rules if rule.get("criteria")]
    if len(limits) < len(rules):  # one rule grants all of the type
        return _conjunction(repository, request.resource_type, request.filters)
    return _conjunction(repository, request.resource_type, request.filters, limits)


def _check_types(repository: Searchable, request: SearchRequest) -> None:
    named = [i.resource_type for i in (*request.include, *request.revinclude)]
    for resource_type in (request.resource_type, *named):
        _check_type(repository, resource_type)


def _check_type(repository: Searchable, resource_type: str) -> None:
    lacks = additions.TYPES if not repository.world.settings.behavior.has_additions else ()
    if not is_resource_type(resource_type) or resource_type in lacks:
        raise invalid([issue("error", "structure", "Unknown resource type")])
    if resource_type == "Binary":
        raise bad_request("Cannot search on Binary resource type")
    if repository.actor.free:
        return
    repository.note_use(resource_type, "search")
    if not policy.rules_for(repository.actor, resource_type, "search"):
        raise forbidden()


def _conjunction(
    repository: Searchable, resource_type: str, filters: tuple[Filter, ...], limits: list[str] | None = None
) -> Clause:
    clauses, late = [], None
    for one in filters:
        try:
            clauses.append(clause(one, resource_type, repository.index))
        except DatabaseError as error:
            late = late or error
    if late is not None:
        raise late
    if limits:
        alternatives = [_limit(repository, resource_type, text) for text in limits]
        sql = " OR ".join(f"({one.sql})" for one in alternatives)
        clauses.append(Clause(f"({sql})", tuple(a for one in alternatives for a in one.arguments)))
    return conjunction(clauses, resource_type, repository.actor.project)


def _limit(repository: Searchable, resource_type: str, criteria: str) -> Clause:
    return where(parse_search(resource_type, query_of(criteria.partition("?")[2])), repository.index)


def _entry(repository: Searchable, resource: Json, mode: str, request: SearchRequest) -> Json:
    shown = repository.view(resource)
    if request.fields is not None or request.summary:
        shown = _subset(shown, request)
    url = f"{repository.world.base_url}/fhir/R4/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "search": {"mode": mode}, "resource": shown}


def _subset(resource: Json, request: SearchRequest) -> Json:
    """The requested and the mandatory elements, tagged SUBSETTED."""
    kind = resource["resourceType"]
    if request.fields is not None:
        wanted = {*request.fields, *mandatory_elements(kind)}
    elif request.summary == "data":
        wanted = resource.keys() - {"text"}
    elif request.summary == "text":
        wanted = {"text", *mandatory_elements(kind)}
    else:
        wanted = set(summary_elements(kind))
    names = set(_json_names(kind, wanted)) | _ALWAYS
    meta = resource["meta"]
    kept = {key: value for key, value in resource.items() if key in names}
    return {**kept, "meta": {**meta, "tag": [*meta.get("tag", ()), _SUBSETTED]}}


def _json_names(resource_type: str, elements: set[str]) -> Iterator[str]:
    """The JSON names of elements: each form of a choice, and the property beside a primitive."""
    known = type_of(resource_type)
    for name in elements:
        yield from (name, f"_{name}")
        element = known.by_name.get(f"{name}[x]") if known else None
        if element is not None:
            yield from (json_name for json_name, _ in element.json_names)


def _links(base_url: str, request: SearchRequest, *, more: bool, entries: bool) -> list[Json]:
    links = [{"relation": "self", "url": request.link(base_url)}]
    if not entries:
        return links
    count = request.count or 0
    links.append({"relation": "first", "url": request.link(base_url, offset=0)})
    if more:
        links.append({"relation": "next", "url": request.link(base_url, offset=request.offset + count)})
    if request.offset > 0:
        links.append({"relation": "previous", "url": request.link(base_url, offset=request.offset - count)})
    return links


def _included(repository: Searchable, request: SearchRequest, matches: list[Json]) -> list[Json]:
    """What ``_include`` and ``_revinclude`` add, each resource once."""
    seen = {resource["id"] for resource in matches}
    found: list[Json] = []
    base, depth = matches, 0
    while base and depth < _DEEPEST_INCLUDE:
        added = []
        for include in request.include:
            if depth == 0 or include.iterate:
                added += list(_targets(repository, include, base))
        for include in request.revinclude:
            if depth == 0 or include.iterate:
                added += _referring(repository, include, base)
        base = [one for one in {one["id"]: one for one in added}.values() if one["id"] not in seen]
        seen |= {one["id"] for one in base}
        found += base
        depth += 1
    return found


def _parameter(repository: Searchable, include: Include) -> Details:
    found = repository.index.details(include.resource_type, include.parameter)
    if found is None:
        raise bad_request(f"Invalid include parameter: {include.resource_type}:{include.parameter}")
    return found


def _targets(repository: Searchable, include: Include, matches: list[Json]) -> Iterator[Json]:
    """What the matches refer to, charged as a read even if it does not exist."""
    known = _parameter(repository, include)
    for resource in matches:
        for text in references(resource, known) if resource["resourceType"] == include.resource_type else ():
            kind, id_ = split_reference(text)
            repository.charge(quota.READ)
            stored = repository.stored(kind, id_) if kind else None
            if stored is not None and not stored.deleted:
                yield stored.resource()


def _referring(repository: Searchable, include: Include, matches: list[Json]) -> list[Json]:
    known = _parameter(repository, include)
    targets = ",".join(f"{m['resourceType']}/{m['id']}" for m in matches)
    compiled = _conjunction(repository, include.resource_type, (Filter(known.name, targets),))
    found = repository.store.select(compiled.sql, compiled.arguments, order="r.rid", limit=_INCLUDED_AT_MOST, offset=0)
    return [stored.resource() for stored in found]
