"""References from the source's ids to Medplum's, in every field and at any depth.

How each kind of reference is rewritten (https://hl7.org/fhir/R4/references.html):

=============================================  =======================================================================
``Patient/1``, ``<source base>/Patient/1``     ``Patient/<Medplum id>``, or a logical reference if it is not imported
``Patient/1/_history/2``                       the same, without the version: Medplum numbers versions on its own
``Patient/<id that Medplum gave>``             stays (the map answers for it)
``#p1``, ``urn:uuid:...``, ``Patient?...``     stays
``https://elsewhere.example/fhir/Patient/1``   stays
=============================================  =======================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bot_layer.bulk_sync.rules.source_identity import (
    ORIGIN_URL,
    ORIGINAL_IDENTIFIER_URL,
    ORIGINAL_TYPE_URL,
    ROOT,
    id_system,
)
from bot_layer.fhir.json import Json, objects

# Stores an identifier or type that the source itself put into a reference, while ours replaces it.
_ORIGINALS: Final = {
    "identifier": (ORIGINAL_IDENTIFIER_URL, "valueIdentifier"),
    "type": (ORIGINAL_TYPE_URL, "valueUri"),
}
_RELATIVE: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")


class Key(NamedTuple):
    """A resource of the source: its type and its id there."""

    type: str
    id: str


# Medplum's id by the source's key; ``urn:uuid:...`` for an entry of the same batch that is created with it
# (https://hl7.org/fhir/R4/bundle.html#references).
Known = Mapping[Key, str]
URN: Final = "urn:uuid:"


@dataclass(frozen=True)
class Rewritten:
    """The resource with its references rewritten, and the targets that are not in Medplum yet."""

    resource: Json
    unresolved: frozenset[Key]


def read_reference(reference: str, base: str) -> Key | None:
    """The source resource that a reference names, or None if it names something else."""
    prefix = base.rstrip("/") + "/"
    relative = reference.removeprefix(prefix)
    match = _RELATIVE.fullmatch(relative)
    return Key(match[1], match[2]) if match else None


def targets(resource: Json, base: str) -> frozenset[Key]:
    """Every source resource that this one refers to."""
    found = {each["reference"] for each in _objects(resource) if _is_reference(each)}
    return frozenset(key for each in found if (key := read_reference(each, base)) is not None)


def rewrite(resource: Json, known: Known, base: str) -> Rewritten:
    """The resource with references to Medplum. The argument is not modified."""
    unresolved: set[Key] = set()

    def change(reference: Json) -> Json:
        key = read_reference(reference["reference"], base)
        if key is None:
            return reference
        if key in known:
            target = known[key]
            return {**reference, "reference": target if target.startswith(URN) else f"{key.type}/{target}"}
        unresolved.add(key)
        return _logical(reference, key, base)

    return Rewritten(_mapped(resource, change), frozenset(unresolved))


def detach(resource: Json, gone: Mapping[str, Key], base: str) -> Json:
    """The resource with logical references to the resources to be deleted: ``gone`` by reference (``Patient/<id>``)."""

    def change(reference: Json) -> Json:
        return _logical(reference, gone[reference["reference"]], base)

    detached: Json = _mapped(resource, change, wanted=lambda each: each.get("reference") in gone)
    return detached


def logical_targets(resource: Json, base: str) -> frozenset[Key]:
    """The source resources in this one's logical references, which did not exist in Medplum when it was written."""
    return frozenset(key for each in _objects(resource) if (key := _logical_key(each, base)) is not None)


def repair(resource: Json, known: Known, base: str) -> Json:
    """The resource with logical references turned into literal ones, if their targets are known now."""

    def change(reference: Json) -> Json:
        key = _logical_key(reference, base)
        return reference if key is None or key not in known else _restored(reference, f"{key.type}/{known[key]}")

    repaired: Json = _mapped(resource, change, wanted=lambda each: _logical_key(each, base) is not None)
    return repaired


def _logical(reference: Json, key: Key, base: str) -> Json:
    """A logical reference with type and identifier; the source's own values of these elements are preserved."""
    rest = {name: value for name, value in reference.items() if name not in ("reference", "type", "identifier")}
    kept = [{"url": url, value: reference[name]} for name, (url, value) in _ORIGINALS.items() if name in reference]
    if kept:
        rest["extension"] = [*objects(rest.get("extension")), *kept]
    origin = [{"url": ORIGIN_URL, "valueUri": f"{base.rstrip('/')}/{key.type}/{key.id}"}]
    identifier = {"extension": origin, "system": id_system(key.type), "value": key.id}
    return {"type": key.type, "identifier": identifier, **rest}


def _restored(reference: Json, target: str) -> Json:
    rest = {name: value for name, value in reference.items() if name not in ("type", "identifier", "extension")}
    extensions = {url: each for each in objects(reference.get("extension")) if isinstance(url := each.get("url"), str)}
    ours = [extensions[url] for url, _ in _ORIGINALS.values() if url in extensions]
    for name, (url, value) in _ORIGINALS.items():
        if url in extensions:
            rest[name] = extensions[url].get(value)
    others = [each for each in objects(reference.get("extension")) if each not in ours]
    if others:
        rest["extension"] = others
    return {"reference": target, **rest}


def _logical_key(value: Json, base: str) -> Key | None:
    """The target of a logical reference from this source's sync: another source may have the same ids."""
    identifier, kind = value.get("identifier"), value.get("type")
    if "reference" in value or not isinstance(identifier, dict) or not isinstance(kind, str):
        return None
    system, source_id = identifier.get("system"), identifier.get("value")
    if not isinstance(system, str) or not system.startswith(ROOT) or system != id_system(kind):
        return None
    if not isinstance(source_id, str):
        return None
    origins = [each.get("valueUri") for each in objects(identifier.get("extension")) if each.get("url") == ORIGIN_URL]
    # References written by an older version do not name the source.
    same = not origins or origins == [f"{base.rstrip('/')}/{kind}/{source_id}"]
    return Key(kind, source_id) if same else None


def _is_reference(value: Json) -> bool:
    return isinstance(value.get("reference"), str)


def _objects(value: Any) -> list[Json]:
    """Every object in a value, at any depth."""
    found = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found.append(each)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return found


def _mapped(value: Any, change: Callable[[Json], Json], *, wanted: Callable[[Json], bool] = _is_reference) -> Any:
    if isinstance(value, dict):
        inner = {
            name: _mapped(each, change, wanted=wanted) if isinstance(each, dict | list) else each
            for name, each in value.items()
        }
        return change(inner) if wanted(inner) else inner
    return [_mapped(each, change, wanted=wanted) if isinstance(each, dict | list) else each for each in value]
