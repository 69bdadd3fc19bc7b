"""A federated DocumentReference query, read and answered as a searchset with a total and pages.

The parameters are those that US Core requires of DocumentReference, and some of FHIR's own.
https://hl7.org/fhir/us/core/StructureDefinition-us-core-documentreference.html and https://hl7.org/fhir/R4/search.html
(unknown parameters 3.1.1.3, dates 3.1.1.4.7, paging 3.1.1.6)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlencode

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json, as_object, objects
from bot_layer.fhir.periods import Interval, interval, period_interval

DEFAULT_COUNT: Final = 50
LARGEST_COUNT: Final = 200
MOST_IDS: Final = 50
MOST_PATIENTS: Final = 10
STATUSES: Final = frozenset({"current", "superseded", "entered-in-error"})
# The ways to name the patient: by the registered id or a reference, or by an identifier (chained, or as a modifier).
_PATIENTS: Final = ("patient", "patient:Patient", "subject", "subject:Patient")
_IDENTIFIED_PATIENTS: Final = (
    "patient.identifier", "patient:identifier", "patient:Patient.identifier",
    "subject.identifier", "subject:identifier", "subject:Patient.identifier",
)  # fmt: skip
_ELEMENTS: Final[dict[str, Callable[[Json], object]]] = {
    "type": lambda document: [document.get("type")],
    "category": lambda document: document.get("category"),
    "date": lambda document: document.get("date"),
    "period": lambda document: as_object(document.get("context")).get("period"),
    "_lastUpdated": lambda document: as_object(document.get("meta")).get("lastUpdated"),
}
UNDERSTOOD: Final = (
    *_PATIENTS, *_IDENTIFIED_PATIENTS, *_ELEMENTS, "status", "_id", "_count", "_offset", "_format", "_total",
)  # fmt: skip
_FORMATS: Final = frozenset({"json", "application/json", "application/fhir+json", "application/json+fhir"})
_ONCE: Final = ("_count", "_offset", "_format")
_PREFIX: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(\d.*)")
_REFERENCE: Final = re.compile(r"(?:Patient/)?([^/]+?)(?:/_history/[^/]+)?")

Filter = Callable[[Json], bool]
_Named = TypeVar("_Named", str, "PatientIdentifier")

# Each prefix, as a comparison of the resource's interval with the parameter's;
# https://hl7.org/fhir/R4/search.html#prefix
_COMPARISONS: Final[dict[str, Callable[[Interval, Interval], bool]]] = {
    "eq": lambda its, asked: asked[0] <= its[0] and its[1] <= asked[1],
    "ne": lambda its, asked: not (asked[0] <= its[0] and its[1] <= asked[1]),
    "gt": lambda its, asked: its[1] > asked[1],
    "lt": lambda its, asked: its[0] < asked[0],
    "ge": lambda its, asked: its[1] > asked[0],
    "le": lambda its, asked: its[0] < asked[1],
    "sa": lambda its, asked: its[0] >= asked[1],
    "eb": lambda its, asked: its[1] <= asked[0],
    "ap": lambda its, asked: its[0] < asked[1] and asked[0] < its[1],
}


class FormatNotSupported(InputError):
    """A query for a format other than JSON: HTTP 406."""


@dataclass(frozen=True)
class PatientIdentifier:
    """A patient named by an identifier; a system of None matches any system."""

    system: str | None
    value: str = field(repr=False)


@dataclass(frozen=True)
class Query:
    """A parsed query. A parameter matches if any of its values does; all parameters must match.

    ``patients`` are registered ids; the query may use ``identifiers`` instead, or only the documents' ``ids``.
    ``filters`` are its other conditions, and ``repeated`` the parameters that were used, for the links.
    """

    patients: tuple[str, ...] = field(default=(), repr=False)
    identifiers: tuple[PatientIdentifier, ...] = ()
    ids: frozenset[str] | None = None
    count: int = DEFAULT_COUNT
    offset: int = 0
    filters: tuple[Filter, ...] = field(default=(), repr=False)
    repeated: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def fits(self, document: Json) -> bool:
        """Whether a DocumentReference matches."""
        return (
            document.get("status") in STATUSES
            and (self.ids is None or document.get("id") in self.ids)
            and all(matches(document) for matches in self.filters)
        )


def read_query(parameters: Sequence[tuple[str, str]], *, strict: bool = False, servers: Sequence[str] = ()) -> Query:
    """Parse the query; InputError names each unusable parameter, and if ``strict`` each unknown one.

    A parameter without a value is ignored. ``servers`` are the FHIR base URLs that absolute patient references may
    have.
    """
    _require_usable({name for name, _ in parameters}, strict=strict)
    parameters = [(name, value) for name, value in parameters if value.strip()]
    values = {name: [value for other, value in parameters if other == name] for name in UNDERSTOOD}
    for name in _ONCE:
        if len(values[name]) > 1:
            raise _unusable(name, "give it once")
    # A plus sign in a query means a space.
    if values["_format"] and values["_format"][0].partition(";")[0].strip().replace(" ", "+") not in _FORMATS:
        text = "The search parameter _format cannot be used: answers are JSON."
        raise FormatNotSupported(text, code="invalid-parameter")
    ids = _ids(values["_id"])
    patients = _alternatives(values, _PATIENTS, lambda value: _registered_id(value, servers))
    identifiers = _alternatives(values, _IDENTIFIED_PATIENTS, _identifier)
    if patients and identifiers:
        raise _unusable("patient", "name the patient either by reference or by identifier")
    if not patients and not identifiers and ids is None:
        raise InputError("Name the patient: DocumentReference?patient=<id>.", code="patient-required")
    return Query(
        patients=patients,
        identifiers=identifiers,
        ids=ids,
        count=min(_number("_count", values["_count"], DEFAULT_COUNT), LARGEST_COUNT),
        offset=_number("_offset", values["_offset"], 0),
        filters=tuple(_filter(name, value) for name, value in parameters if name == "status" or name in _ELEMENTS),
        repeated=tuple((name, value) for name, value in parameters if name in UNDERSTOOD and name != "_offset"),
    )


def is_strict(prefer: str) -> bool:
    """Whether a Prefer header requests that unknown parameters are rejected
    (https://hl7.org/fhir/R4/search.html#errors)."""
    return "handling=strict" in re.split("[,;]", re.sub(r"[\s\"]", "", prefer).lower())


def searchset(query: Query, documents: Sequence[Json], base_url: str) -> Json:
    """The Bundle: the total number of matches, one page of them, and links to this page and the next."""
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
    """The query without its paging parameters, for the audit record."""
    return urlencode(query.repeated)


def _require_usable(names: set[str], *, strict: bool) -> None:
    """Reject unusable names. An unknown modifier could invert the meaning, so FHIR requires that it is always
    rejected."""
    unknown = sorted(name for name in names if name not in UNDERSTOOD)
    modified = [name for name in unknown if name.partition(":")[0] in UNDERSTOOD and ":" in name]
    refused = unknown if strict else modified
    if refused:
        raise InputError(
            f"These search parameters are unknown: {', '.join(name[:40] for name in refused[:10])}.",
            code="unknown-parameter",
        )


def _alternatives(
    values: dict[str, list[str]], names: Sequence[str], read: Callable[[str], _Named]
) -> tuple[_Named, ...]:
    """The values named by these parameters: comma-separated alternatives, of which those present in every parameter
    count."""
    named = [dict.fromkeys(map(read, _split(value, ","))) for name in names for value in values[name]]
    common = tuple(each for each in named[0] if all(each in others for others in named)) if named else ()
    if named and not common:
        raise _unusable("patient", "name the same patient each time")
    if len(common) > MOST_PATIENTS:
        raise _unusable("patient", f"name at most {MOST_PATIENTS}")
    return common


def _registered_id(value: str, servers: Sequence[str]) -> str:
    given = _unescaped(value.strip())
    for server in servers:
        given = given.removeprefix(f"{server.rstrip('/')}/")
    match = _REFERENCE.fullmatch(given)
    return match[1] if match else given


def _identifier(value: str) -> PatientIdentifier:
    system, number = _token("patient.identifier", value.strip())
    if not number:
        raise _unusable("patient.identifier", "give a value or system|value")
    return PatientIdentifier(system, number)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _split(text: str, sign: str) -> list[str]:
    """The parts of a value between unescaped separators; https://hl7.org/fhir/R4/search.html#escaping."""
    return re.split(rf"(?<!\\){re.escape(sign)}", text)


def _ids(values: list[str]) -> frozenset[str] | None:
    if not values:
        return None
    asked = [frozenset(filter(None, value.split(","))) for value in values]
    ids = frozenset.intersection(*asked)
    if len(ids) > MOST_IDS:
        raise _unusable("_id", f"give at most {MOST_IDS}")
    return ids


def _number(name: str, values: list[str], default: int) -> int:
    if not values:
        return default
    if not (values[0].isascii() and values[0].isdigit() and len(values[0]) < 10):
        raise _unusable(name, "give a number of 0 or more")
    return int(values[0])


def _filter(name: str, value: str) -> Filter:
    """The condition of one parameter: one of its comma-separated values matches."""
    if name == "status":
        codes = {code.rpartition("|")[2] for code in value.split(",")}
        if not codes <= STATUSES:
            raise _unusable("status", f"its codes are {', '.join(sorted(STATUSES))}")
        return lambda document: document.get("status") in codes
    element = _ELEMENTS[name]
    if name in ("type", "category"):
        tokens = [_token(name, part) for part in _split(value, ",")]
        return lambda document: any(_is_coded(element(document), *token) for token in tokens)
    dates = [_date(name, part) for part in value.split(",")]
    return lambda document: any(matches(element(document)) for matches in dates)


def _token(name: str, text: str) -> tuple[str | None, str]:
    """``code``, ``system|code``, ``|code`` or ``system|``; a system of None matches any system."""
    *system, code = map(_unescaped, _split(text, "|"))
    if not any(system) and not code:
        raise _unusable(name, "give a code or system|code")
    return ("|".join(system) if system else None, code)


def _date(name: str, text: str) -> Callable[[object], bool]:
    """Whether a date or Period of a resource matches; a resource without one never does."""
    match = _PREFIX.fullmatch(text)
    asked = interval(match[2]) if match else None
    if match is None or asked is None:
        raise _unusable(name, "give a date, optionally with the prefix eq, ne, gt, lt, ge, le, sa, eb or ap")
    compare = _COMPARISONS[match[1] or "eq"]

    def matches(value: object) -> bool:
        its = interval(value) if isinstance(value, str) else period_interval(value)
        return its is not None and compare(its, asked)

    return matches


def _is_coded(concepts: object, system: str | None, code: str) -> bool:
    codings = [coding for concept in objects(concepts) for coding in objects(concept.get("coding"))]
    return any(
        (not code or coding.get("code") == code) and (system is None or coding.get("system", "") == system)
        for coding in codings
    )


def _page_url(address: str, query: Query, offset: int) -> str:
    repeated = [*query.repeated, ("_offset", str(offset))] if offset else list(query.repeated)
    return f"{address}?{urlencode(repeated)}"


def _unusable(name: str, why: str) -> InputError:
    return InputError(f"The search parameter {name} cannot be used: {why}.", code="invalid-parameter")
