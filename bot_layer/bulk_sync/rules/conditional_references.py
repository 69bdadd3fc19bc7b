"""Conditional references, such as ``Practitioner?identifier=system|value``: finds and resolves them.

https://hl7.org/fhir/R4/http.html#trules (conditional references). Medplum rejects a resource with one that matches
nothing, so none is sent there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from bot_layer.fhir.json import Json

_CONDITIONAL: Final = re.compile(r"([A-Z][A-Za-z]+)\?identifier=([^&]+)")


class Query(NamedTuple):
    """A resource named by an identifier."""

    type: str
    system: str
    value: str


def read_query(reference: object, base: str) -> Query | None:
    """The query of a reference, or None if it has none that can be resolved."""
    if not isinstance(reference, str):
        return None
    found = _CONDITIONAL.fullmatch(reference.removeprefix(f"{base.rstrip('/')}/"))
    if found is None:
        return None
    system, bar, value = unquote(found[2]).partition("|")
    return Query(found[1], system, value) if bar and system and value and "," not in value else None


def queries(value: Any, base: str) -> set[Query]:
    """Every conditional reference in a resource."""
    found: set[Query] = set()

    def note(_reference: Json, query: Query) -> Json:
        found.add(query)
        return _reference

    _mapped(value, base, note)
    return found


def with_targets(resource: Json, targets: Mapping[Query, str | None], base: str) -> Json:
    """The resource with each one resolved to ``Type/id`` at the source, or else replaced by a logical reference."""

    def change(reference: Json, query: Query) -> Json:
        target = targets.get(query)
        if target is not None:
            return {**reference, "reference": target}
        rest = {name: each for name, each in reference.items() if name != "reference"}
        return {"type": query.type, "identifier": {"system": query.system, "value": query.value}, **rest}

    changed: Json = _mapped(resource, base, change)
    return changed


def _mapped(value: Any, base: str, change: Callable[[Json, Query], Json]) -> Any:
    if isinstance(value, list):
        return [_mapped(each, base, change) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {
        name: _mapped(each, base, change) if isinstance(each, dict | list) else each for name, each in value.items()
    }
    query = read_query(inner.get("reference"), base)
    return inner if query is None else change(inner, query)
