"""A search as it was asked for: read from a query string, and written back for the links of the Bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from medplum_sandbox.medplum.dates import is_date_time
from medplum_sandbox.medplum.outcomes import bad_request, unforeseen
from medplum_sandbox.medplum.search_strategy import Strategy, details

Query = list[tuple[str, str]]

DEFAULT_COUNT, MAX_COUNT = 20, 1000
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap", "sw")
MODIFIERS = frozenset(
    (
        *("contains", "exact", "above", "below", "text", "not", "in", "not-in", "of-type", "missing", "identifier"),
        "iterate",
    )
)
_ORDERED = (Strategy.DATE, Strategy.NUMBER)
_PRESENCE = ("missing", "present")
_IGNORED = frozenset(("_format", "_pretty", "_", "_cursor", "_type"))
_ALTERNATIVE = re.compile(r"(?:^|(?<=,))(?:\\.|[^,\\])*\\?", re.DOTALL)
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?\d+)")


@dataclass(frozen=True)
class Filter:
    """One condition. ``code`` may be a chain (``patient.identifier``) or a ``_has``.

    ``operator`` is a prefix such as ``ge``, or a modifier such as ``exact``.
    """

    code: str
    value: str
    operator: str = "eq"

    @property
    def negated(self) -> bool:
        """Whether the condition asks for what does not match."""
        return self.operator in ("not", "ne")

    def values(self) -> list[str]:
        """The alternatives: a comma divides them, and a character after a backslash is literal."""
        return [_ESCAPED.sub(r"\1", v) for v in _ALTERNATIVE.findall(self.value)]

    def written(self) -> str:
        """The condition as a link shows it."""
        modifier = f":{self.operator}" if self.operator in MODIFIERS else ""
        prefix = self.operator if self.operator in PREFIXES and self.operator != "eq" else ""
        return f"{self.code}{modifier}={prefix}{_encoded(self.value)}"


@dataclass(frozen=True)
class Include:
    """``_include`` or ``_revinclude``: which type's which parameter; ``iterate`` follows what was included too."""

    resource_type: str
    parameter: str
    target: str | None = None
    iterate: bool = False

    def written(self, name: str) -> str:
        """As a link shows it."""
        value = ":".join(part for part in (self.resource_type, self.parameter, self.target) if part)
        return f"{name}{':iterate' if self.iterate else ''}={value}"


@dataclass(frozen=True)
class SearchRequest:
    """A whole search. ``count`` is None where the caller's was no number."""

    resource_type: str
    filters: tuple[Filter, ...] = ()
    count: int | None = DEFAULT_COUNT
    offset: int = 0
    total: str | None = None
    sort: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None
    summary: str | None = None
    include: tuple[Include, ...] = ()
    revinclude: tuple[Include, ...] = ()

    def link(self, base_url: str, *, offset: int | None = None) -> str:
        """The URL of this search, or of the same at another offset."""
        at = self.offset if offset is None else offset
        parts = [f"_count={'NaN' if self.count is None else self.count}"]
        if at:
            parts.append(f"_offset={at}")
        if self.total is not None:
            parts.append(f"_total={self.total}")
        if self.sort:
            parts.append(f"_sort={','.join(self.sort)}")
        if self.fields is not None:
            parts.append(f"_fields={','.join(self.fields)}")
        parts += [i.written("_include") for i in self.include]
        parts += [i.written("_revinclude") for i in self.revinclude]
        parts += [f.written() for f in self.filters]
        # Medplum sorts by name, one with a modifier before one without, and keeps the order of equal names.
        parts.sort(key=lambda part: part.partition("=")[0] + "=")
        return f"{base_url}/fhir/R4/{self.resource_type}?{'&'.join(parts)}"


def query_of(text: str) -> Query:
    """The pairs of a query string, with or without a question mark."""
    return parse_qsl(text.removeprefix("?"), keep_blank_values=True)


def condition_of(text: str) -> Query:
    """The pairs of an If-None-Exist; text after a second question mark is ignored."""
    return query_of(text.removeprefix("?").partition("?")[0])


def parse_search(resource_type: str, query: Query) -> SearchRequest:
    """The search that a query asks for. Raises 400 for what cannot be read; unknown names are found when it runs."""
    filters: list[Filter] = []
    settings: dict[str, str] = {}
    sort: list[str] = []
    include: list[Include] = []
    revinclude: list[Include] = []
    for key, value in query:
        code, _, modifier = key.partition(":")
        if code == "_has" or "." in key:
            filters.append(Filter(key, value))
        elif code == "_include":
            include.append(_include(value, modifier))
        elif code == "_revinclude":
            revinclude.append(_include(value, modifier))
        elif code == "_sort":
            sort += value.split(",")
        elif code in ("_count", "_offset", "_total", "_fields", "_elements", "_summary"):
            settings["_fields" if code == "_elements" else code] = value
        elif code not in _IGNORED:
            filters.append(filter_of(resource_type, code, modifier, value))
    summary = settings.get("_summary")
    counting = summary == "count"
    count = whole_number(settings["_count"]) if "_count" in settings else DEFAULT_COUNT
    return SearchRequest(
        resource_type=resource_type,
        filters=tuple(filters),
        count=0 if counting else count if count is None else min(count, MAX_COUNT),
        offset=whole_number(settings.get("_offset", "")) or 0,
        total="accurate" if counting else settings.get("_total"),
        sort=tuple(sort),
        fields=tuple(settings["_fields"].split(",")) if "_fields" in settings else None,
        summary=summary if summary in ("true", "data", "text") else None,
        include=tuple(include),
        revinclude=tuple(revinclude),
    )


def filter_of(resource_type: str, code: str, modifier: str, value: str) -> Filter:
    """One condition with its operator. Raises 400 for a date that is none."""
    if code == "_filter":
        return Filter(code, value)
    if code == "_lastUpdated":
        return _ordered(code, modifier, value, is_date=True)
    found = None if code == "_id" else details(resource_type, code)
    if found is None and code not in ("_id", "_project", "_deleted"):
        return _unknown(code, modifier, value)
    if modifier in _PRESENCE:
        return Filter(code, value, modifier)
    if found is not None and found.strategy in _ORDERED:
        return _ordered(code, modifier, value, is_date=found.strategy is Strategy.DATE)
    if found is not None and found.strategy is Strategy.NOWHERE:
        raise unforeseen(f"Unrecognized search parameter type: {found.parameter.type}")
    return Filter(code, value, modifier if modifier in MODIFIERS else "eq")


def _ordered(code: str, modifier: str, value: str, *, is_date: bool) -> Filter:
    if modifier in _PRESENCE:
        return Filter(code, value, modifier)
    operator, rest = (value[:2], value[2:]) if value[:2] in PREFIXES else (modifier or "eq", value)
    if is_date and not is_date_time(rest):
        raise bad_request(f"Invalid format for date search parameter: {rest}")
    return Filter(code, rest, operator)


def _unknown(code: str, modifier: str, value: str) -> Filter:
    """A condition on a name that the server does not know; it is refused when the search runs."""
    if not modifier and value[:2] in PREFIXES and (len(value) == 2 or value[2:3].isdigit()):
        return Filter(code, value[2:], value[:2])
    return Filter(code, value, modifier or "eq")


def _include(text: str, modifier: str) -> Include:
    parts = text.split(":")
    if "*" in parts:
        raise bad_request("'*' is not supported as a value for search inclusion parameters")
    if len(parts) == 1:
        raise bad_request(f"Invalid include value '{text}': must be of the form ResourceType:search-parameter")
    if len(parts) > 3:
        raise bad_request(f"Invalid include value '{text}'")
    return Include(parts[0], parts[1], parts[2] if len(parts) > 2 else None, modifier == "iterate")


def whole_number(text: str) -> int | None:
    """The number that a text begins with, as JavaScript reads it."""
    match = _NUMBER.match(text)
    return int(match[1]) if match else None


def _encoded(text: str) -> str:
    """As JavaScript's encodeURIComponent writes it."""
    return quote(text, safe="!'()*-._~")
