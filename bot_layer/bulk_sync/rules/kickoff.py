"""The kick-off of an export: what to send, what the answer means, and what to try after a refusal.

https://hl7.org/fhir/uv/bulkdata/export.html#bulk-data-kick-off-request
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from bot_layer.bulk_sync.rules.bulk_export import (
    ASK_AGAIN,
    NDJSON_TYPE,
    Level,
    Wait,
    WaitLimits,
    is_transient,
    issue_codes,
    listed,
    lower,
    wait_seconds,
)
from bot_layer.fhir.json import Json, decode, objects

_ASKED_WRONG: Final = frozenset({400, 406, 415, 422})  # the request itself is refused, not the level or the rights
_UNSUPPORTED: Final = frozenset({403, 404, 405, 501}) | _ASKED_WRONG
_SHOWN: Final = 300
# What could identify a person or grant access: long numbers, ids, and everything after the path of a URL.
_PRIVATE: Final = re.compile(r"\?\S*|[0-9a-fA-F-]{16,}|\d{4,}|[\w.+-]+@[\w.-]+|[\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Export:
    """What to export. ``since`` empty means everything."""

    level: Level
    types: tuple[str, ...]
    group_id: str = ""
    since: str = ""
    type_filters: tuple[str, ...] = field(default=())
    lenient: bool = False
    output_format: bool = True  # False: the source refuses the parameter, and NDJSON is the default anyway
    patients: tuple[str, ...] = ()  # only these; only POST supports it
    elements: tuple[str, ...] = ()  # only these and the mandatory ones
    refused_since: str = ""  # this ``_since`` was left out to learn whether the source refuses it


@dataclass(frozen=True)
class KickoffRequest:
    """One HTTP request. ``url`` is absolute; ``body`` is set only for POST."""

    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str]
    body: Json | None = None


@dataclass(frozen=True)
class Started:
    """The export was started; ``status_url`` is the address for status requests, ``date`` the answer's Date header."""

    status_url: str
    date: str = ""


@dataclass(frozen=True)
class Refused:
    """The kick-off was refused. ``unsupported``: not at this level or not in this form; another may be possible.

    ``text`` is the source's own explanation without addresses, ids and numbers.
    """

    status: int
    reason: str
    unsupported: bool = False
    post_only: bool = False
    text: str = ""


def export_path(level: Level, group_id: str = "") -> str:
    """The operation's path under the base URL."""
    return {"system": "$export", "patient": "Patient/$export", "group": f"Group/{group_id}/$export"}[level]


def kickoff_request(base: str, export: Export, *, post: bool = False) -> KickoffRequest:
    """The kick-off: GET with a query, or POST with Parameters if the server requires it."""
    url = f"{base.rstrip('/')}/{export_path(export.level, export.group_id)}"
    prefer = "respond-async, handling=lenient" if export.lenient else "respond-async"
    headers = {"Accept": "application/fhir+json", "Prefer": prefer}
    if post or export.patients:
        headers["Content-Type"] = "application/fhir+json"
        return KickoffRequest("POST", url, headers, {"resourceType": "Parameters", "parameter": _parameters(export)})
    query = {"_outputFormat": NDJSON_TYPE} if export.output_format else {}
    if export.types:
        # One comma-separated list: some servers (Cerner) reject repeated parameters, none rejects the list.
        query["_type"] = ",".join(export.types)
    if export.since:
        query["_since"] = export.since
    if export.type_filters:
        # A comma inside a filter belongs to the filter, so it is escaped once more.
        query["_typeFilter"] = ",".join(each.replace(",", "%2C") for each in export.type_filters)
    if export.elements:
        query["_elements"] = ",".join(export.elements)
    # A plus would be read as a space: in the type of the output as in a time stamp's offset (HAPI sends +00:00).
    asked = f"?{urlencode(query, safe='/,:$', quote_via=quote)}" if query else ""
    return KickoffRequest("GET", url + asked, headers)


def _parameters(export: Export) -> list[Json]:
    # STU4 uses repeated parameters and no comma-separated lists (https://hl7.org/fhir/uv/bulkdata/export.html).
    parameters: list[Json] = [{"name": "_outputFormat", "valueString": NDJSON_TYPE}] if export.output_format else []
    parameters += [{"name": "_type", "valueString": each} for each in export.types]
    if export.since:
        parameters.append({"name": "_since", "valueInstant": export.since})
    parameters += [{"name": "_typeFilter", "valueString": each} for each in export.type_filters]
    parameters += [{"name": "_elements", "valueString": each} for each in export.elements]
    parameters += [{"name": "patient", "valueReference": {"reference": f"Patient/{each}"}} for each in export.patients]
    return parameters


def read_kickoff(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    asked: float | None = None,
    attempt: int = 1,
    limits: WaitLimits | None = None,
) -> Started | Wait | Refused:
    """Interpret the answer to a kick-off."""
    known = lower(headers)
    location = known.get("content-location", "") or known.get("location", "")
    if status in (200, 201, 202) and location:
        return Started(location, known.get("date", ""))
    if status in ASK_AGAIN or (status >= 400 and is_transient(body)):
        return Wait(wait_seconds(asked, attempt=attempt, limits=limits or WaitLimits()))
    text = _explained(body)
    reason = f"the kick-off was answered {status}{listed(issue_codes(body))}{f': {text}' if text else ''}"
    post_only = status == 405 or (status == 400 and b"POST" in body)
    return Refused(status, reason, unsupported=status in _UNSUPPORTED, post_only=post_only, text=text)


def narrower(export: Export, refused: Refused) -> tuple[Export, ...]:
    """The exports to try instead of a refused one; none if the source refuses its type or the level.

    First without ``_outputFormat``, then without ``_since``, then in parts: the types that the answer names separately,
    or, if it names none, the first type separately and the rest in halves. A type that is refused on its own is
    excluded; the others are exported.
    """
    named = tuple(each for each in export.types if re.search(rf"\b{each}\b", refused.text))
    few = 0 < len(named) < len(export.types)
    if refused.status not in _ASKED_WRONG and (not few or not refused.unsupported or "Patient" in named):
        return ()  # an answer that names Patient may mean the level of that name
    if not few or "_outputFormat" in refused.text:
        if export.output_format:
            return (replace(export, output_format=False),)
        if export.since:
            return (replace(export, since="", refused_since=export.since),)
    whole = replace(export, since=export.since or export.refused_since, refused_since="")
    if few:
        parts = [tuple(each for each in export.types if each not in named), *((each,) for each in named)]
    elif len(export.types) > 1:
        middle = (len(export.types) + 1) // 2
        parts = [export.types[:1], export.types[1:middle], export.types[middle:]]
    else:
        return ()
    return tuple(replace(whole, types=part, type_filters=_of(part, whole)) for part in parts if part)


def _of(types: tuple[str, ...], export: Export) -> tuple[str, ...]:
    return tuple(each for each in export.type_filters if each.partition("?")[0] in types)


def _explained(body: bytes) -> str:
    """The diagnostics and texts of an OperationOutcome, shortened, without what could identify a person or grant
    access."""
    try:
        document: Any = decode(body)
    except ValueError:
        return ""
    issues = objects(document.get("issue")) if isinstance(document, dict) else []
    texts = []
    for issue in issues:
        details = issue.get("details")
        texts += [issue.get("diagnostics"), details.get("text") if isinstance(details, dict) else None]
    said = "; ".join(dict.fromkeys(each.strip() for each in texts if isinstance(each, str) and each.strip()))
    return re.sub(r"\s+", " ", _PRIVATE.sub(" ... ", said)).strip()[:_SHOWN]
