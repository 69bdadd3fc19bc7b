"""A federated DocumentReference query understood, and its answer as a searchset with a total and pages.

https://hl7.org/fhir/R4/search.html (dates 3.1.1.4.7, unknown parameters 3.1.1.3, paging 3.1.1.6)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from bot_layer.errors import InputError
from bot_layer.fhir.demographics import entries
from bot_layer.fhir.json import Json

DEFAULT_COUNT: Final = 50
LARGEST_COUNT: Final = 200
UNDERSTOOD: Final = ("patient", "date", "type", "status", "_lastUpdated", "_count", "_offset", "_format", "_total")
STATUSES: Final = frozenset({"current", "superseded", "entered-in-error"})
_FORMATS: Final = frozenset({"json", "application/json", "application/fhir+json"})
_ONCE: Final = ("patient", "_count", "_offset", "_format")
_PREFIX: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb)?(\d.*)")
_DAY: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
# The seconds may be left away in a search.
_TO_THE_MINUTE: Final = re.compile(r"[^T]+T\d{2}:\d{2}(?:Z|[+ -]\d{2}:\d{2})?")

Interval = tuple[datetime, datetime]

# Each prefix by where the resource's interval lies to the parameter's; https://hl7.org/fhir/R4/search.html#prefix
_COMPARISONS: Final[dict[str, Callable[[Interval, Interval], bool]]] = {
    "eq": lambda its, asked: asked[0] <= its[0] and its[1] <= asked[1],
    "ne": lambda its, asked: not (asked[0] <= its[0] and its[1] <= asked[1]),
    "gt": lambda its, asked: its[1] > asked[1],
    "lt": lambda its, asked: its[0] < asked[0],
    "ge": lambda its, asked: its[1] > asked[0],
    "le": lambda its, asked: its[0] < asked[1],
    "sa": lambda its, asked: its[0] >= asked[1],
    "eb": lambda its, asked: its[1] <= asked[0],
}


@dataclass(frozen=True)
class DateRule:
    """One value of ``date`` or ``_lastUpdated``."""

    prefix: str
    interval: Interval

    def fits(self, text: object) -> bool:
        """Whether a resource's date fits; one that has none fits no rule."""
        its = interval(text) if isinstance(text, str) else None
        return its is not None and _COMPARISONS[self.prefix](its, self.interval)


@dataclass(frozen=True)
class Query:
    """What is asked for. Within a parameter any value fits; all the parameters have to."""

    patient: str = field(repr=False)
    count: int = DEFAULT_COUNT
    offset: int = 0
    statuses: frozenset[str] = STATUSES
    types: tuple[tuple[tuple[str | None, str], ...], ...] = ()
    dates: tuple[tuple[DateRule, ...], ...] = ()
    updated: tuple[tuple[DateRule, ...], ...] = ()
    repeated: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def fits(self, document: Json) -> bool:
        """Whether a DocumentReference is asked for."""
        meta = document.get("meta")
        updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
        return (
            document.get("status") in self.statuses
            and all(any(_is_coded(document, *token) for token in tokens) for tokens in self.types)
            and all(any(rule.fits(document.get("date")) for rule in rules) for rules in self.dates)
            and all(any(rule.fits(updated) for rule in rules) for rules in self.updated)
        )


def read_query(parameters: Sequence[tuple[str, str]], *, lenient: bool = False) -> Query:
    """The query as a value; InputError names every parameter that is unknown, unless ``lenient``, or not usable."""
    unknown = sorted({name for name, _ in parameters if name not in UNDERSTOOD})
    if unknown and not lenient:
        raise InputError(
            f"These search parameters are not understood: {', '.join(name[:40] for name in unknown[:10])}.",
            code="unknown-parameter",
        )
    values = {name: [value for other, value in parameters if other == name] for name in UNDERSTOOD}
    for name in _ONCE:
        if len(values[name]) > 1:
            raise _unusable(name, "give it once")
    if values["_format"] and values["_format"][0] not in _FORMATS:
        raise _unusable("_format", "answers are JSON")
    repeated = [(name, value) for name, value in parameters if name in UNDERSTOOD and name != "_offset"]
    return Query(
        patient=_patient(values["patient"]),
        count=min(_number("_count", values["_count"], DEFAULT_COUNT), LARGEST_COUNT),
        offset=_number("_offset", values["_offset"], 0),
        statuses=_statuses(values["status"]),
        types=tuple(_tokens(value) for value in values["type"]),
        dates=tuple(_date_rules("date", value) for value in values["date"]),
        updated=tuple(_date_rules("_lastUpdated", value) for value in values["_lastUpdated"]),
        repeated=tuple(repeated),
    )


def searchset(query: Query, documents: Sequence[Json], base_url: str) -> Json:
    """The Bundle: the total of all that fits, one page of it, and links to this page and the next."""
    ordered = sorted(documents, key=lambda document: str(document.get("id")))
    ordered.sort(key=lambda document: str(document.get("date", "")), reverse=True)
    page = ordered[query.offset : query.offset + query.count]
    address = f"{base_url}/DocumentReference"
    links = [{"relation": "self", "url": _page_url(address, query, query.offset)}]
    following = query.offset + query.count
    if page and following < len(ordered):
        links.append({"relation": "next", "url": _page_url(address, query, following)})
    bundle: Json = {"resourceType": "Bundle", "type": "searchset", "total": len(ordered), "link": links}
    if page:
        bundle["entry"] = [
            {"fullUrl": f"{address}/{document['id']}", "resource": document, "search": {"mode": "match"}}
            for document in page
        ]
    return bundle


def canonical(query: Query) -> str:
    """What was asked, without the page: for the record."""
    return urlencode(query.repeated)


def interval(text: str) -> Interval | None:
    """The span of time that a FHIR date, dateTime or instant covers; None where it is none. No zone means UTC."""
    match = _DAY.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            if "." in text:
                return moment, moment + timedelta(microseconds=1)
            return moment, moment + (timedelta(minutes=1) if _TO_THE_MINUTE.fullmatch(text) else timedelta(seconds=1))
        year, month, day = (int(part) if part else None for part in match.groups())
        assert year is not None
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
        if day:
            return start, start + timedelta(days=1)
        following = (year, month + 1) if month and month < 12 else (year + 1, 1)
        return start, datetime(*following, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _patient(values: list[str]) -> str:
    bare = values[0].removeprefix("Patient/").strip() if values else ""
    if not bare:
        raise InputError("Name the patient: DocumentReference?patient=<id>.", code="patient-required")
    return bare


def _number(name: str, values: list[str], default: int) -> int:
    if not values:
        return default
    if not (values[0].isascii() and values[0].isdigit() and len(values[0]) < 10):
        raise _unusable(name, "it is a number of 0 or more")
    return int(values[0])


def _statuses(values: list[str]) -> frozenset[str]:
    asked = STATUSES
    for value in values:
        codes = frozenset(code.rpartition("|")[2] for code in value.split(","))
        if not codes <= STATUSES:
            raise _unusable("status", f"its codes are {', '.join(sorted(STATUSES))}")
        asked &= codes
    return asked


def _tokens(value: str) -> tuple[tuple[str | None, str], ...]:
    return tuple(_token(part) for part in value.split(","))


def _token(text: str) -> tuple[str | None, str]:
    """``code``, ``system|code``, ``|code`` or ``system|``; a system of None stands for any."""
    system, bar, code = text.rpartition("|")
    if not system and not code:
        raise _unusable("type", "it is a code or system|code")
    return (system if bar else None, code)


def _date_rules(name: str, value: str) -> tuple[DateRule, ...]:
    return tuple(_date_rule(name, part) for part in value.split(","))


def _date_rule(name: str, text: str) -> DateRule:
    match = _PREFIX.fullmatch(text)
    asked = interval(match[2]) if match else None
    if match is None or asked is None:
        raise _unusable(name, "it is a date, with eq, ne, gt, lt, ge, le, sa or eb before it if need be")
    return DateRule(match[1] or "eq", asked)


def _is_coded(document: Json, system: str | None, code: str) -> bool:
    kind = document.get("type")
    codings = entries(kind.get("coding")) if isinstance(kind, dict) else ()
    return any(
        (not code or coding.get("code") == code) and (system is None or coding.get("system", "") == system)
        for coding in codings
    )


def _page_url(address: str, query: Query, offset: int) -> str:
    repeated = [*query.repeated, ("_offset", str(offset))] if offset else list(query.repeated)
    return f"{address}?{urlencode(repeated)}"


def _unusable(name: str, why: str) -> InputError:
    return InputError(f"The search parameter {name} can't be used so: {why}.", code="invalid-parameter")
