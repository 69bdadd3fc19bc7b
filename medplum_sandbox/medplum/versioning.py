"""Versions of a resource: what the server stamps on each, when two are the same, and the Bundle of their history."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.definitions.search_table import Path
from medplum_sandbox.medplum.definitions.tables import parameters
from medplum_sandbox.medplum.indexing import walk
from medplum_sandbox.medplum.outcomes import OK, bad_request, gone
from medplum_sandbox.medplum.search_request import MAX_COUNT, whole_number
from medplum_sandbox.medplum.store import Stored
from medplum_sandbox.medplum.world import Actor

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_PAGE = 100
_STAMPED = frozenset(("versionId", "lastUpdated", "author", "project", "compartment"))


def is_uuid(text: object) -> bool:
    """Whether Medplum takes the text as a resource's id."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def stamped(resource: Json, actor: Actor, now: str, id: str) -> Json:
    """The resource with its id and the ``meta`` of a new version."""
    made = {**resource, "id": id}
    kept = {k: v for k, v in resource.get("meta", {}).items() if k not in _STAMPED}
    made["meta"] = {
        **kept,
        "versionId": str(uuid.uuid4()),
        "lastUpdated": now,
        "author": actor.reference,
        "project": actor.project,
        "compartment": compartments(made, actor.project),
    }
    return made


def with_own_meta(resource: Json) -> Json:
    """The resource with the parts of ``meta`` that its author may set; the server sets the others, and the id."""
    meta = resource.get("meta")
    if isinstance(meta, str | list):
        meta = _places(meta)
    own = {key: value for key, value in meta.items() if key not in _STAMPED} if isinstance(meta, dict) else {}
    kept = {key: value for key, value in resource.items() if key not in ("meta", "id")}
    return {**kept, "meta": own} if own else kept


def with_assigned(value: Any) -> Any:
    """The value with the properties beside an object (``_code``) copied into the object, as the server reads it."""
    if isinstance(value, list):
        return [with_assigned(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: with_assigned(item) for key, item in value.items()}
    for key, beside in value.items():
        if key.startswith("_") and key[1:] in found:
            found[key[1:]] = _assigned(found[key[1:]], beside)
    return found


def _assigned(target: Any, beside: Any) -> Any:
    """An object with the fields of another, or with the places of a list; a list item by item."""
    if isinstance(target, list) and isinstance(beside, list):
        return [_assigned(*pair) for pair in zip(target, beside, strict=False)] + target[len(beside) :]
    if beside and not isinstance(beside, dict | list):
        raise bad_request("Primitive extension must be an object")
    if not isinstance(target, dict) or not beside:
        return target
    return target | (_places(beside) if isinstance(beside, list) else beside)


def _places(values: str | list[Any]) -> Json:
    """A text or a list as JavaScript spreads it into an object."""
    return {str(place): value for place, value in enumerate(values)}


def same_content(old: Json, new: Json) -> bool:
    """Whether a write would change nothing: then there is no new version."""
    return _content(old) == _content(new)


def compartments(resource: Json, project: str) -> list[Json]:
    """The project, and the patients that the resource is about."""
    found = {f"Project/{project}": None}
    if resource["resourceType"] == "Patient":
        found[f"Patient/{resource['id']}"] = None
    for path in _paths_to_patients(resource["resourceType"]):
        found |= dict.fromkeys(_patients(walk(resource, path.steps)))
    return [{"reference": reference} for reference in found]


@cache
def _paths_to_patients(resource_type: str) -> tuple[Path, ...]:
    members = [p for p in parameters(resource_type).values() if p.patient is not None]
    members.sort(key=lambda parameter: parameter.patient or 0)
    return tuple({path.steps: path for parameter in members for path in parameter.paths}.values())


def versions_bundle(base_url: str, versions: list[Stored], query: dict[str, str], view: Callable[[Json], Json]) -> Json:
    """The history of one resource, newest first."""
    asked = query.get("_count", "")
    count = (whole_number(asked) or 0) if asked else _PAGE
    first = max(whole_number(query.get("_offset", "")) or 0, 0)
    # A count that is no number above 0 is no limit.
    page = versions[first : first + min(count, MAX_COUNT)] if count > 0 else versions[first:]
    entries = [_entry(base_url, version, view) for version in page]
    found: Json = {"resourceType": "Bundle", "type": "history"}
    if entries:
        found["entry"] = entries
    return {**found, "total": len(versions)}


def _entry(base_url: str, version: Stored, view: Callable[[Json], Json]) -> Json:
    path = f"{version.type}/{version.id}"
    entry: Json = {
        "fullUrl": f"{base_url}/fhir/R4/{path}",
        "request": {"method": "GET", "url": f"{path}/_history/{version.version}"},
    }
    if version.deleted:
        outcome = gone(f"Deleted on {_javascript_date(version.updated)}").outcome
        return {**entry, "response": {"status": "410", "outcome": outcome}}
    return {**entry, "response": {"status": "200", "outcome": OK}, "resource": view(version.resource())}


def _javascript_date(instant: str) -> str:
    """As JavaScript's Date writes itself into a text."""
    return f"{datetime.fromisoformat(instant):%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def _content(resource: Json) -> Json:
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in _STAMPED}
    return {**{key: value for key, value in resource.items() if key != "id"}, "meta": meta}


def _patients(values: Any) -> list[str]:
    references = [v.get("reference") or "" for v in values if isinstance(v, dict)]
    if not all(isinstance(reference, str) for reference in references):
        raise bad_request("reference.reference?.startsWith is not a function")
    return [r for r in references if r.startswith("Patient/") and is_uuid(r.removeprefix("Patient/"))]
