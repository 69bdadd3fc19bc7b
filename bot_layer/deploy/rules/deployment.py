"""What must change on a server so that it matches the bots' declarations. Pure functions; nothing is written here.

Resources are identified by stable keys (a Bot's identifier, an OperationDefinition's url, a tag), never by raw ids. A
plan writes ids as ``@Kind:key``, so that references to resources that do not exist yet can be compared too. The law:
after a plan was carried out, the next plan is empty.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot_layer.fhir.json import Json

TAG_SYSTEM = "https://medplum.com/integrations/python-bots/deployed"
COLLECTION_SYSTEM = "https://medplum.com/integrations/python-bots/collection"
BOT_SYSTEMS = frozenset(
    {"https://www.medplum.com/integrations/bot-identifier", "https://medplum.com/bot-external-function-id"}
)
IMPLEMENTATION = "https://medplum.com/fhir/StructureDefinition/operationDefinition-implementation"
ORDER = ("Secret", "AccessPolicy", "Bot", "ProjectMembership", "OperationDefinition", "Subscription")

# The project's own fields. ``cronTiming`` and ``runAsUser`` are never declared: one overrides cronString, the other the
# AccessPolicy.
_MANAGED: Mapping[str, frozenset[str]] = {
    "Secret": frozenset({"value"}),
    "AccessPolicy": frozenset({"name", "resource"}),
    "Bot": frozenset(
        {*("name", "description", "runtimeVersion", "timeout", "cronString", "code"), *("cronTiming", "runAsUser")}
    ),
    "ProjectMembership": frozenset({"accessPolicy"}),
    "OperationDefinition": frozenset(
        {
            *("url", "version", "name", "title", "status", "kind", "description", "purpose", "comment", "code"),
            *("affectsState", "resource", "system", "type", "instance", "parameter"),
        }
    ),
    "Subscription": frozenset({"status", "reason", "criteria", "channel", "extension"}),
}
# Lists that others use too: the name, and which entries are the project's.
_SHARED: Mapping[str, tuple[str, str, frozenset[str]]] = {
    "Bot": ("identifier", "system", BOT_SYSTEMS),
    "OperationDefinition": ("extension", "url", frozenset({IMPLEMENTATION})),
}
_TAGS = frozenset({"tag", "collection"})  # these are stored in meta.tag


@dataclass(frozen=True)
class Wanted:
    """A resource as a collection declares it: only the fields that the project manages."""

    kind: str
    key: str
    body: Json = field(repr=False)
    collection: str = ""


@dataclass(frozen=True)
class Found:
    """A resource as it is on the server.

    ``ours`` is True if it has the project's tag; ``collection`` is the collection of bots that deployed it.
    """

    kind: str
    key: str
    resource: Json = field(repr=False)
    ours: bool = True
    collection: str = ""


@dataclass(frozen=True)
class Difference:
    """One managed field, before and after; None if it is absent."""

    path: str
    before: Any = field(repr=False)
    after: Any = field(repr=False)


@dataclass(frozen=True)
class Step:
    """One thing to do: create, update or delete. ``body`` contains the managed fields as they must be afterwards."""

    action: str
    kind: str
    key: str
    body: Json = field(repr=False)
    differences: tuple[Difference, ...] = ()
    collection: str = ""


@dataclass(frozen=True)
class Plan:
    """The steps, the resources that match the declaration, and those that are on the server but not declared (not
    changed)."""

    steps: tuple[Step, ...]
    unchanged: tuple[Wanted, ...] = ()
    foreign: tuple[Found, ...] = ()


def symbol(kind: str, key: str) -> str:
    """The placeholder for ``Kind/id`` while the id may not exist yet."""
    return f"@{kind}:{key}"


def plan(
    declared: Sequence[Wanted],
    deployed: Sequence[Found],
    *,
    prune: bool = False,
    collections: Names[str] = frozenset({""}),
) -> Plan:
    """The steps from the deployed to the declared state, ordered so that references can be resolved.

    With ``prune``, what one of these collections deployed and no longer declares is deleted; nothing else ever is.
    """
    existing = {(found.kind, found.key): found for found in deployed}
    wanted = {(each.kind, each.key): each for each in declared}
    steps: list[Step] = []
    unchanged: list[Wanted] = []
    for key, each in wanted.items():
        found = existing.pop(key, None)
        differences = _differences(managed(each.kind, found.resource) if found else {}, each.body)
        if found and not differences:
            unchanged.append(each)
        else:
            action = "update" if found else "create"
            steps.append(Step(action, each.kind, each.key, each.body, differences, each.collection))
    removed: list[Step] = []
    foreign: list[Found] = []
    for found in existing.values():
        # Others may use the same secret.
        if prune and found.ours and found.kind != "Secret" and found.collection in collections:
            differences = _differences(managed(found.kind, found.resource), {})
            removed.append(Step("delete", found.kind, found.key, {}, differences, found.collection))
        else:
            foreign.append(found)
    steps.sort(key=lambda step: ORDER.index(step.kind))
    removed.sort(key=lambda step: -ORDER.index(step.kind))
    return Plan((*steps, *removed), tuple(unchanged), tuple(foreign))


def managed(kind: str, resource: Json) -> Json:
    """The fields of a resource that the project manages; all others belong to other users."""
    body = {name: value for name, value in resource.items() if name in _MANAGED[kind]}
    shared, ours, _ = _split(kind, resource)
    special = {shared: ours, "tag": tags_of(resource), "collection": collection_of(resource)}
    return body | {name: value for name, value in special.items() if value}


def tags_of(resource: Json) -> list[str]:
    """The project's tags on a resource."""
    return _tag_codes(resource, TAG_SYSTEM)


def collection_of(resource: Json) -> str:
    """The collection of bots that deployed a resource; empty if it has no collection tag."""
    return next(iter(_tag_codes(resource, COLLECTION_SYSTEM)), "")


def _tag_codes(resource: Json, system: str) -> list[str]:
    tags = resource.get("meta", {}).get("tag", [])
    return [str(tag["code"]) for tag in tags if tag.get("system") == system and tag.get("code")]


def merged(kind: str, resource: Json, body: Json) -> Json:
    """The resource with the managed fields from ``body``, and all others unchanged."""
    shared, _, others = _split(kind, resource)
    replaced = {*_MANAGED[kind], *_TAGS, shared, "meta"}
    built = {name: value for name, value in resource.items() if name not in replaced}
    built |= {name: value for name, value in body.items() if name not in {*_TAGS, shared}}
    entries = [*body.get(shared, []), *others]
    meta = _with_tags(resource.get("meta", {}), body)
    return built | ({shared: entries} if entries else {}) | ({"meta": meta} if meta else {})


def _split(kind: str, resource: Json) -> tuple[str, list[Json], list[Json]]:
    """The list of a resource that others use too: its name, the project's entries and those of others."""
    name, member, values = _SHARED.get(kind, ("", "", frozenset()))
    ours: list[Json] = []
    others: list[Json] = []
    for each in resource.get(name, []):
        (ours if each.get(member) in values else others).append(each)
    return name, ours, others


def _with_tags(meta: Json, body: Json) -> Json:
    systems = {TAG_SYSTEM, COLLECTION_SYSTEM}
    others = [tag for tag in meta.get("tag", []) if not (tag.get("system") in systems and tag.get("code"))]
    tags = [{"system": TAG_SYSTEM, "code": code} for code in body.get("tag", [])]
    if body.get("collection"):
        tags.append({"system": COLLECTION_SYSTEM, "code": body["collection"]})
    rest = {name: value for name, value in meta.items() if name != "tag"}
    return rest | {"tag": [*tags, *others]} if tags or others else rest


def _differences(before: Json, after: Json) -> tuple[Difference, ...]:
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        Difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )
