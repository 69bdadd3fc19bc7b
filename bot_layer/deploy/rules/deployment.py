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

_KEPT = frozenset({"Secret"})  # others may use the same secret

_TAGS = frozenset({"tag", "collection"})  # these are stored in meta.tag
_MANAGED: Mapping[str, frozenset[str]] = {
    "Secret": frozenset({"value"}),
    "AccessPolicy": frozenset({"name", "resource"}),
    "Bot": frozenset(
        {
            *("name", "description", "runtimeVersion", "timeout", "cronString", "code"),
            *(
                "cronTiming",
                "runAsUser",
            ),  # never declared: one overrides cronString, the other the AccessPolicy
        }
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
    held = {(found.kind, found.key): found for found in deployed}
    wanted = {(each.kind, each.key): each for each in declared}
    steps = [step for each in wanted.values() if (step := _step(each, held.get((each.kind, each.key))))]
    left = [found for key, found in held.items() if key not in wanted]
    removed = [found for found in left if prune and _is_pruned(found, collections)]
    changed = {(step.kind, step.key) for step in steps}
    return Plan(
        steps=(
            *sorted(steps, key=lambda step: ORDER.index(step.kind)),
            *(_removal(found) for found in sorted(removed, key=lambda found: -ORDER.index(found.kind))),
        ),
        unchanged=tuple(each for key, each in wanted.items() if key not in changed),
        foreign=tuple(found for found in left if found not in removed),
    )


def _is_pruned(found: Found, collections: Names[str]) -> bool:
    return found.ours and found.kind not in _KEPT and found.collection in collections


def managed(kind: str, resource: Json) -> Json:
    """The fields of a resource that the project manages; all others belong to other users."""
    body = {name: value for name, value in resource.items() if name in _MANAGED[kind]}
    if kind == "Bot":
        body |= _some("identifier", [each for each in resource.get("identifier", []) if _is_ours(each)])
    if kind == "OperationDefinition":
        body |= _some(
            "extension", [each for each in resource.get("extension", []) if each.get("url") == IMPLEMENTATION]
        )
    label = collection_of(resource)
    return body | _some("tag", _tags(resource)) | ({"collection": label} if label else {})


def collection_of(resource: Json) -> str:
    """The collection of bots that deployed a resource; empty if it has no collection tag."""
    tags = resource.get("meta", {}).get("tag", [])
    return next((str(tag["code"]) for tag in tags if tag.get("system") == COLLECTION_SYSTEM and tag.get("code")), "")


def merged(kind: str, resource: Json, body: Json) -> Json:
    """The resource with the managed fields from ``body``, and all others unchanged."""
    kept = {name: value for name, value in resource.items() if name not in _MANAGED[kind] and name not in _TAGS}
    lists = {name: body.get(name, []) for name in ("identifier", "extension") if name not in _MANAGED[kind]}
    built = kept | {name: value for name, value in body.items() if name not in _TAGS and name not in lists}
    if kind == "Bot":
        others = [each for each in resource.get("identifier", []) if not _is_ours(each)]
        built = _replaced(built, "identifier", [*lists["identifier"], *others])
    if kind == "OperationDefinition":
        others = [each for each in resource.get("extension", []) if each.get("url") != IMPLEMENTATION]
        built = _replaced(built, "extension", [*lists["extension"], *others])
    return _tagged(built, resource, body)


def _step(wanted: Wanted, found: Found | None) -> Step | None:
    before = managed(wanted.kind, found.resource) if found else {}
    differences = _differences(before, wanted.body)
    if found is not None and not differences:
        return None
    action = "create" if found is None else "update"
    return Step(action, wanted.kind, wanted.key, wanted.body, differences, wanted.collection)


def _removal(found: Found) -> Step:
    before = managed(found.kind, found.resource)
    return Step("delete", found.kind, found.key, {}, _differences(before, {}), found.collection)


def _differences(before: Json, after: Json) -> tuple[Difference, ...]:
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        Difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def _is_ours(identifier: Json) -> bool:
    return identifier.get("system") in BOT_SYSTEMS


def _tags(resource: Json) -> list[str]:
    tags = resource.get("meta", {}).get("tag", [])
    return [tag["code"] for tag in tags if tag.get("system") == TAG_SYSTEM and "code" in tag]


def _tagged(built: Json, resource: Json, body: Json) -> Json:
    meta = dict(resource.get("meta", {}))
    systems = {TAG_SYSTEM, COLLECTION_SYSTEM}
    others = [tag for tag in meta.get("tag", []) if tag.get("system") not in systems or "code" not in tag]
    ours = [{"system": TAG_SYSTEM, "code": code} for code in body.get("tag", [])]
    if body.get("collection"):
        ours.append({"system": COLLECTION_SYSTEM, "code": body["collection"]})
    meta = _replaced(meta, "tag", [*ours, *others])
    return _replaced(built, "meta", meta)


def _some(name: str, values: list[Any]) -> Json:
    return {name: values} if values else {}


def _replaced(holder: Json, name: str, value: Any) -> Json:
    """The object with the field set to the value, or without the field if the value is empty."""
    rest = {key: kept for key, kept in holder.items() if key != name}
    return rest | {name: value} if value else rest
