"""Search as this source offers it: few parameters, and 400 for each that it does not know."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

import orjson

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.source import Entry

CONTROLS: Final = frozenset({"_count", "_page", "_format"})
_COMPARE: Final[dict[str, Callable[[datetime, datetime], bool]]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
}


class BadSearch(ValueError):
    """The query has a parameter, or a value, that this source does not understand."""


@dataclass(frozen=True)
class Query:
    """Criteria for one type, all of which a resource must meet."""

    type: str
    criteria: tuple[tuple[str, str], ...]

    def matches(self, entry: Entry) -> bool:
        """Whether the entry meets all criteria."""
        resource: Json | None = None
        for name, value in self.criteria:
            if name in _BY_ENTRY:
                fits = _BY_ENTRY[name](entry, value)
            else:
                resource = resource or orjson.loads(entry.line)
                fits = _BY_RESOURCE[name](resource, value)
            if not fits:
                return False
        return True


def read_query(kind: str, pairs: Iterable[tuple[str, str]]) -> Query:
    """The query in plain values; BadSearch names the parameter that is not known."""
    criteria = []
    for name, value in pairs:
        if name in CONTROLS:
            continue
        if name not in _BY_ENTRY and name not in _BY_RESOURCE:
            raise BadSearch(f"Unknown search parameter: {name}")
        if name == "_lastUpdated":
            _moment(value[2:] if value[:2] in _COMPARE else value)
        criteria.append((name, value))
    return Query(kind, tuple(criteria))


def read_type_filter(text: str) -> Query:
    """One ``_typeFilter``, such as ``Observation?category=laboratory``."""
    kind, mark, query = text.partition("?")
    if not mark or not kind.isalpha():
        raise BadSearch("A _typeFilter looks like Type?parameter=value.")
    return read_query(kind, parse_qsl(query))


def parse_instant(text: str) -> datetime:
    """A FHIR instant or date as a moment; BadSearch otherwise."""
    return _moment(text)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadSearch("A date or an instant is expected.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _last_updated(entry: Entry, value: str) -> bool:
    prefix = value[:2] if value[:2] in _COMPARE else "eq"
    return _COMPARE[prefix](entry.updated, _moment(value.removeprefix(prefix)))


def _patient(entry: Entry, value: str) -> bool:
    return entry.patient is not None and entry.patient in {part.split("/")[-1] for part in value.split(",")}


def _token(value: str, system: str | None, code: str | None) -> bool:
    wanted_system, bar, wanted = value.rpartition("|")
    return wanted == code and (not bar or wanted_system == (system or ""))


def _identifier(resource: Json, value: str) -> bool:
    found = resource.get("identifier", [])
    listed = found if isinstance(found, list) else [found]
    return any(_token(part, i.get("system"), i.get("value")) for part in value.split(",") for i in listed)


def _category(resource: Json, value: str) -> bool:
    codings = [coding for category in resource.get("category", []) for coding in category.get("coding", [])]
    return any(_token(part, c.get("system"), c.get("code")) for part in value.split(",") for c in codings)


def _status(resource: Json, value: str) -> bool:
    return resource.get("status") in value.split(",")


_BY_ENTRY: Final[dict[str, Callable[[Entry, str], bool]]] = {
    "_id": lambda entry, value: entry.id in value.split(","),
    "_lastUpdated": _last_updated,
    "patient": _patient,
    "subject": _patient,
}
_BY_RESOURCE: Final[dict[str, Callable[[Json, str], bool]]] = {
    "identifier": _identifier,
    "category": _category,
    "status": _status,
}
