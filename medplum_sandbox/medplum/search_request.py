"""A search as it was asked for: read from a query string, and written back for the links of the Bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from medplum_sandbox.medplum.dates import span
from medplum_sandbox.medplum.definitions.search_table import Parameter
from medplum_sandbox.medplum.definitions.tables import is_resource_type, parameters
from medplum_sandbox.medplum.outcomes import bad_request

Query = list[tuple[str, str]]

DEFAULT_COUNT, MAX_COUNT = 20, 1000
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_MODIFIERS = frozenset(("not", "exact", "contains", "missing", "text", "identifier", "in", "not-in", "above", "below"))
_IGNORED = frozenset(("_format", "_pretty"))
_ALTERNATIVE = re.compile(r"(?:^|(?<=,))(?:\\.|[^,\\])*\\?")
_ESCAPED = re.compile(r"\\(.?)")
_LAST_UPDATED = Parameter("_lastUpdated", "date", ())
_ID = Parameter("_id", "token", ())


@dataclass(frozen=True)
class Filter:
    """One condition. ``code`` may be a chain (``patient.identifier``) or a ``_has``."""

    code: str
    value: str
    modifier: str | None = None
    target: str | None = None

    def values(self) -> list[str]:
        """The alternatives: a comma divides them, and what stands behind a backslash is only itself."""
        return [_ESCAPED.sub(r"\1", v) for v in _ALTERNATIVE.findall(self.value)]

    def written(self) -> str:
        """The condition as it stands in a link."""
        key = f"{self.code}:{self.modifier}" if self.modifier else self.code
        return f"{key}={_encoded(self.value)}"


@dataclass(frozen=True)
class Include:
    """``_include`` or ``_revinclude``: which type's which parameter."""

    resource_type: str
    parameter: str
    target: str | None = None

    @property
    def text(self) -> str:
        """As it was asked for."""
        return ":".join(part for part in (self.resource_type, self.parameter, self.target) if part)


@dataclass(frozen=True)
class SearchRequest:
    """A whole search. ``count`` is None where the caller's was no number."""

    resource_type: str
    filters: tuple[Filter, ...] = ()
    count: int | None = DEFAULT_COUNT
    offset: int = 0
    total: str | None = None
    sort: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    summary: str | None = None
    include: tuple[Include, ...] = ()
    revinclude: tuple[Include, ...] = ()

    def link(self, base_url: str, *, offset: int | None = None) -> str:
        """The URL of this search, or of the same at another offset."""
        at = self.offset if offset is None else offset
        parts = [f"_count={'NaN' if self.count is None else self.count}"]
        if at:
            parts.append(f"_offset={at}")
        if self.total:
            parts.append(f"_total={self.total}")
        if self.sort:
            parts.append(f"_sort={','.join(self.sort)}")
        if self.fields:
            parts.append(f"_fields={','.join(self.fields)}")
        parts += [f"_include={i.text}" for i in self.include]
        parts += [f"_revinclude={i.text}" for i in self.revinclude]
        parts += [f.written() for f in self.filters]
        # Medplum sorts by name and keeps the order of equal names.
        parts.sort(key=lambda part: part.partition("=")[0])
        return f"{base_url}/fhir/R4/{self.resource_type}?{'&'.join(parts)}"


def query_of(text: str) -> Query:
    """The pairs of a query string, with or without a question mark."""
    return parse_qsl(text.removeprefix("?"), keep_blank_values=True)


def condition_of(text: str) -> Query:
    """The pairs of an If-None-Exist; what stands behind a second question mark does not count."""
    return query_of(text.removeprefix("?").partition("?")[0])


def parse_search(resource_type: str, query: Query) -> SearchRequest:
    """The search that a query asks for. Raises 400 for a date that is none; unknown names are found when it runs."""
    filters: list[Filter] = []
    settings: dict[str, str] = {}
    include: list[Include] = []
    revinclude: list[Include] = []
    for key, value in query:
        name = key.partition(":")[0]
        if name == "_include":
            include.append(_include(value))
        elif name == "_revinclude":
            revinclude.append(_include(value))
        elif key in ("_count", "_offset", "_total", "_sort", "_fields", "_elements", "_summary"):
            settings["_fields" if key == "_elements" else key] = value
        elif key not in _IGNORED:
            filters.append(_filter(resource_type, key, value))
    summary = settings.get("_summary")
    counting = summary == "count"
    return SearchRequest(
        resource_type=resource_type,
        filters=tuple(filters),
        count=0 if counting else _count(settings.get("_count")),
        offset=int(text) if (text := settings.get("_offset", "")).isdigit() else 0,
        total="accurate" if counting else settings.get("_total"),
        sort=_words(settings.get("_sort")),
        fields=_words(settings.get("_fields")),
        summary=None if counting else summary,
        include=tuple(include),
        revinclude=tuple(revinclude),
    )


def parameter_of(resource_type: str, code: str) -> Parameter | None:
    """The parameter of a type, those included that are columns."""
    if code == "_lastUpdated":
        return _LAST_UPDATED
    return _ID if code == "_id" else parameters(resource_type).get(code)


def split_prefix(value: str) -> tuple[str, str]:
    """("ge", "2024") of "ge2024"; ("eq", value) where there is no prefix."""
    return (value[:2], value[2:]) if value[:2] in PREFIXES and value[2:3].isdigit() else ("eq", value)


def _filter(resource_type: str, key: str, value: str) -> Filter:
    if key.startswith("_has:") or "." in key:
        return Filter(key, value)
    code, _, modifier = key.partition(":")
    target = modifier if modifier and is_resource_type(modifier) else None
    parameter = parameter_of(resource_type, code)
    kept = modifier if modifier in _MODIFIERS else None
    if parameter is not None and parameter.type == "date" and kept != "missing":
        if any(span(split_prefix(v)[1]) is None for v in value.split(",")):
            raise bad_request(f"Invalid format for date search parameter: {value}")
        value = value.removeprefix("eq")
    return Filter(code, value, kept, target)


def _include(text: str) -> Include:
    resource_type, _, rest = text.partition(":")
    parameter, _, target = rest.partition(":")
    return Include(resource_type, parameter, target or None)


def _count(text: str | None) -> int | None:
    if text is None:
        return DEFAULT_COUNT
    return min(int(text), MAX_COUNT) if text.isdigit() else None


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in (text or "").split(",") if word)


def _encoded(text: str) -> str:
    """As JavaScript's encodeURIComponent writes it."""
    return quote(text, safe="!'()*-._~")
