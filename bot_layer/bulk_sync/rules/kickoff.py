"""The kick-off of an export: what to ask, and what the answer means.

https://hl7.org/fhir/uv/bulkdata/export.html#bulk-data-kick-off-request
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, urlencode

from bot_layer.bulk_sync.rules.bulk_export import (
    BUSY,
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
from bot_layer.fhir.json import Json


@dataclass(frozen=True)
class Export:
    """What to export. ``since`` empty means everything."""

    level: Level
    types: tuple[str, ...]
    group_id: str = ""
    since: str = ""
    type_filters: tuple[str, ...] = field(default=())
    patients: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class KickoffRequest:
    """One HTTP request. ``url`` is absolute; ``body`` is set for POST alone."""

    method: Literal["GET", "POST"]
    url: str
    headers: dict[str, str]
    body: Json | None = None


@dataclass(frozen=True)
class Started:
    """The export runs; its status is asked here."""

    status_url: str


@dataclass(frozen=True)
class Refused:
    """The kick-off was refused. ``unsupported`` means: not at this level or not in this way, another may do."""

    status: int
    reason: str
    unsupported: bool = False
    post_only: bool = False


def export_path(level: Level, group_id: str = "") -> str:
    """The operation's place under the base."""
    return {"system": "$export", "patient": "Patient/$export", "group": f"Group/{group_id}/$export"}[level]


def kickoff_request(base: str, export: Export, *, post: bool = False) -> KickoffRequest:
    """The kick-off: GET with a query, or POST with Parameters where the server wants it or patients are named."""
    url = f"{base.rstrip('/')}/{export_path(export.level, export.group_id)}"
    headers = {"Accept": "application/fhir+json", "Prefer": "respond-async"}
    if post or export.patients:
        headers["Content-Type"] = "application/fhir+json"
        return KickoffRequest("POST", url, headers, {"resourceType": "Parameters", "parameter": _parameters(export)})
    query = {"_outputFormat": NDJSON_TYPE}
    if export.types:
        # One list joined by commas: repeated parameters are refused by some servers (Cerner), the list by none.
        query["_type"] = ",".join(export.types)
    if export.since:
        query["_since"] = export.since
    if export.type_filters:
        # A comma inside a filter belongs to the filter, so that it is escaped once more.
        query["_typeFilter"] = ",".join(each.replace(",", "%2C") for each in export.type_filters)
    # A plus would be read as a space: in the type of the output as in a time stamp's offset (HAPI sends +00:00).
    return KickoffRequest("GET", f"{url}?{urlencode(query, safe='/,:$', quote_via=quote)}", headers)


def _parameters(export: Export) -> list[Json]:
    # STU4 takes repeated parameters and no comma lists (https://hl7.org/fhir/uv/bulkdata/export.html).
    parameters: list[Json] = [{"name": "_outputFormat", "valueString": NDJSON_TYPE}]
    parameters += [{"name": "_type", "valueString": each} for each in export.types]
    if export.since:
        parameters.append({"name": "_since", "valueInstant": export.since})
    parameters += [{"name": "_typeFilter", "valueString": each} for each in export.type_filters]
    parameters += [{"name": "patient", "valueReference": {"reference": f"Patient/{each}"}} for each in export.patients]
    return parameters


def read_kickoff(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    attempt: int = 1,
    limits: WaitLimits | None = None,
) -> Started | Wait | Refused:
    """What the answer to a kick-off means."""
    known = lower(headers)
    location = known.get("content-location", "") or known.get("location", "")
    if status in (200, 201, 202) and location:
        return Started(location)
    if status in BUSY or (status >= 400 and is_transient(body)):
        return Wait(wait_seconds(known.get("retry-after"), now=now, attempt=attempt, limits=limits or WaitLimits()))
    reason = f"the kick-off was answered {status}" + listed(issue_codes(body))
    post_only = status == 405 or (status == 400 and b"POST" in body)
    return Refused(status, reason, unsupported=status in (400, 403, 404, 405, 422, 501), post_only=post_only)
