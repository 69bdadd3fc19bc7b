"""References from the source's ids to Medplum's, in every field and at any depth.

``base`` is the source's base URL without a trailing slash.

How each kind of reference is rewritten (https://hl7.org/fhir/R4/references.html):

=============================================  =======================================================================
``Patient/1``, ``<source base>/Patient/1``     ``Patient/<Medplum id>``, or a logical reference if it is not imported
``Patient/1/_history/2``                       the same, without the version: Medplum numbers versions on its own
``Patient/<id that Medplum gave>``             stays (the map answers for it)
``#p1``, ``urn:uuid:...``                      stays
``Practitioner?identifier=system|value``       first replaced by ``Practitioner/1``, or by a logical reference
``https://elsewhere.example/fhir/Patient/1``   stays
=============================================  =======================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from bot_layer.bulk_sync.rules.source_identity import (
    ORIGIN_URL,
    ORIGINAL_IDENTIFIER_URL,
    ORIGINAL_TYPE_URL,
    id_system,
)
from bot_layer.fhir.json import Json, objects, text
from bot_layer.fhir.references import is_id

# Stores an identifier or type that the source itself put into a reference, while ours replaces it.
_ORIGINALS: Final = {
    "identifier": (ORIGINAL_IDENTIFIER_URL, "valueIdentifier"),
    "type": (ORIGINAL_TYPE_URL, "valueUri"),
}
_CONTAINERS: Final = (dict, list)
_CONDITIONAL: Final = re.compile(r"([A-Z][A-Za-z]+)\?identifier=([^&]+)")
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


def by_type(keys: Iterable[tuple[str, str]], most: int) -> Iterator[tuple[str, list[str]]]:
    """The ids of each type, without repetitions, in lists of at most ``most``."""
    found: dict[str, dict[str, None]] = {}
    for kind, each in keys:
        found.setdefault(kind, {})[each] = None
    for kind, ids in found.items():
        listed = list(ids)
        for start in range(0, len(listed), most):
            yield kind, listed[start : start + most]


def read_reference(reference: object, base: str) -> Key | None:
    """The source resource that a reference names, or None if it names something else."""
    if not isinstance(reference, str):
        return None  # most objects are no references
    match = _RELATIVE.fullmatch(_relative(reference, base))
    return Key(match[1], match[2]) if match and is_id(match[2]) else None


def targets(resource: Json, base: str) -> frozenset[Key]:
    """Every source resource that this one refers to."""
    found = [read_reference(each["reference"], base) for each in _objects(resource) if "reference" in each]
    return frozenset(key for key in found if key is not None)


def rewrite(resource: Json, known: Known, base: str) -> Rewritten:
    """The resource with references to Medplum. The argument is not modified."""
    unresolved: set[Key] = set()

    def change(value: Json) -> Json:
        key = read_reference(value.get("reference"), base)
        if key is None:
            return value
        if key in known:
            target = known[key]
            return {**value, "reference": target if target.startswith(URN) else f"{key.type}/{target}"}
        unresolved.add(key)
        return _logical(value, key, base)

    return Rewritten(_mapped(resource, change), frozenset(unresolved))


# -- Conditional references (https://hl7.org/fhir/R4/http.html#trules). Medplum rejects a resource with one that matches
# nothing, so none is sent there.


class Query(NamedTuple):
    """A resource named by an identifier, as in ``Practitioner?identifier=system|value``."""

    type: str
    system: str
    value: str


def _read_query(reference: object, base: str) -> Query | None:
    found = _CONDITIONAL.fullmatch(_relative(reference, base))
    if found is None:
        return None
    system, bar, value = unquote(found[2]).partition("|")
    return Query(found[1], system, value) if bar and system and value and "," not in value else None


def queries(resource: Json, base: str) -> set[Query]:
    """Every conditional reference in a resource that can be resolved."""
    found = (_read_query(each.get("reference"), base) for each in _objects(resource))
    return {query for query in found if query is not None}


def with_targets(resource: Json, targets: Mapping[Query, str | None], base: str) -> Json:
    """The resource with each one resolved to ``Type/id`` at the source, or else replaced by a logical reference."""

    def change(value: Json) -> Json:
        query = _read_query(value.get("reference"), base)
        if query is None:
            return value
        if target := targets.get(query):
            return {**value, "reference": target}
        rest = {name: each for name, each in value.items() if name != "reference"}
        return {"type": query.type, "identifier": {"system": query.system, "value": query.value}, **rest}

    changed: Json = _mapped(resource, change)
    return changed


# -- Logical references, for targets that are not in Medplum


def detach(resource: Json, deleted: Mapping[str, Key], base: str) -> Json:
    """The resource with logical references to deleted resources, which are given by reference (``Patient/<id>``)."""

    def change(value: Json) -> Json:
        key = deleted.get(text(value.get("reference")))
        return value if key is None else _logical(value, key, base)

    detached: Json = _mapped(resource, change)
    return detached


def logical_targets(resource: Json, base: str) -> frozenset[Key]:
    """The source resources in this one's logical references, which did not exist in Medplum when it was written."""
    return frozenset(key for each in _objects(resource) if (key := _logical_key(each, base)) is not None)


def repair(resource: Json, known: Known, base: str) -> Json:
    """The resource with logical references turned into literal ones, if their targets are known now."""

    def change(value: Json) -> Json:
        key = _logical_key(value, base)
        return value if key is None or key not in known else _restored(value, f"{key.type}/{known[key]}")

    repaired: Json = _mapped(resource, change)
    return repaired


def _logical(reference: Json, key: Key, base: str) -> Json:
    """A logical reference with type and identifier; the source's own values of these elements are preserved."""
    rest = {name: value for name, value in reference.items() if name not in ("reference", "type", "identifier")}
    kept = [{"url": url, value: reference[name]} for name, (url, value) in _ORIGINALS.items() if name in reference]
    if kept:
        rest["extension"] = [*objects(rest.get("extension")), *kept]
    origin = [{"url": ORIGIN_URL, "valueUri": f"{base}/{key.type}/{key.id}"}]
    identifier = {"extension": origin, "system": id_system(key.type), "value": key.id}
    return {"type": key.type, "identifier": identifier, **rest}


def _restored(reference: Json, target: str) -> Json:
    rest = {name: value for name, value in reference.items() if name not in ("type", "identifier", "extension")}
    names = {url: (name, value) for name, (url, value) in _ORIGINALS.items()}
    others = []
    for each in objects(reference.get("extension")):
        if original := names.get(text(each.get("url"))):
            name, value = original
            rest[name] = each.get(value)
        else:
            others.append(each)
    if others:
        rest["extension"] = others
    return {"reference": target, **rest}


def _logical_key(value: Json, base: str) -> Key | None:
    """The target of a logical reference from this source's sync: another source may have the same ids."""
    identifier, kind = value.get("identifier"), value.get("type")
    if "reference" in value or not isinstance(identifier, dict) or not isinstance(kind, str):
        return None
    system, source_id = identifier.get("system"), identifier.get("value")
    if system != id_system(kind) or not isinstance(source_id, str):
        return None
    origins = [each.get("valueUri") for each in objects(identifier.get("extension")) if each.get("url") == ORIGIN_URL]
    # References written by an older version do not name the source.
    same = not origins or origins == [f"{base}/{kind}/{source_id}"]
    return Key(kind, source_id) if same else None


# -- Walking through a resource


def _relative(reference: object, base: str) -> str:
    return text(reference).removeprefix(f"{base}/")


def _objects(resource: Json) -> list[Json]:
    """Every object in a resource, at any depth."""
    found: list[Json] = []
    waiting: list[Any] = [resource]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found.append(each)
        inner = each.values() if isinstance(each, dict) else each
        waiting += [one for one in inner if isinstance(one, _CONTAINERS)]
    return found


def _mapped(value: Any, change: Callable[[Json], Json]) -> Any:
    """The value with each object in it changed, from the inside out."""
    if isinstance(value, dict):
        inner = {name: _mapped(each, change) for name, each in value.items() if isinstance(each, _CONTAINERS)}
        return change({**value, **inner} if inner else value)
    return [_mapped(each, change) if isinstance(each, _CONTAINERS) else each for each in value]
