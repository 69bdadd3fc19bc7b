"""The kick-off of an export: what to send, what the answer means, and what to try after a refusal.

https://hl7.org/fhir/uv/bulkdata/export.html#bulk-data-kick-off-request
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import quote, urlencode

from bot_layer.bulk_sync.rules.bulk_export import NDJSON_TYPE, Wait, is_busy, issue_codes, listed, wait_seconds
from bot_layer.bulk_sync.rules.run_state import Job
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.fhir.json import Json, as_object, objects, read_object

_ASKED_WRONG: Final = frozenset({400, 406, 415, 422})  # the request itself is refused, not the level or the rights
_UNSUPPORTED: Final = frozenset({403, 404, 405, 501}) | _ASKED_WRONG
_SHOWN: Final = 300
# What could identify a person or grant access: long numbers, ids, and everything after the path of a URL.
_PRIVATE: Final = re.compile(r"\?\S*|[0-9a-fA-F-]{16,}|\d{4,}|[\w.+-]+@[\w.-]+|[\x00-\x1f\x7f]+")


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


def export_path(level: str, group_id: str = "") -> str:
    """The operation's path under the base URL."""
    return {"system": "$export", "patient": "Patient/$export", "group": f"Group/{group_id}/$export"}[level]


def kickoff_request(
    settings: SyncSettings, job: Job, *, elements: tuple[str, ...] = (), post: bool = False
) -> KickoffRequest:
    """The kick-off: GET with a query, or POST with Parameters if the server or a list of patients requires it.

    ``elements``: the source sends only these and the mandatory ones.
    """
    url = f"{settings.source}/{export_path(job.level, job.group)}"
    prefer = "respond-async, handling=lenient" if settings.lenient else "respond-async"
    headers = {"Accept": "application/fhir+json", "Prefer": prefer}
    parameters = list(_parameters(settings, job, elements))
    if post or job.only:
        # STU4 uses repeated parameters and no comma-separated lists (https://hl7.org/fhir/uv/bulkdata/export.html).
        entries: list[Json] = [{"name": name, f"value{kind}": value} for name, kind, value in parameters]
        entries += [{"name": "patient", "valueReference": {"reference": f"Patient/{each}"}} for each in job.only]
        headers["Content-Type"] = "application/fhir+json"
        return KickoffRequest("POST", url, headers, {"resourceType": "Parameters", "parameter": entries})
    query: dict[str, str] = {}
    for name, _, value in parameters:
        # A comma inside a filter belongs to the filter, so it is escaped once more.
        part = value.replace(",", "%2C") if name == "_typeFilter" else value
        # One comma-separated list: some servers (Cerner) reject repeated parameters, none rejects the list.
        query[name] = f"{query[name]},{part}" if name in query else part
    # A plus would be read as a space: in the type of the output as in a time stamp's offset (HAPI sends +00:00).
    search = f"?{urlencode(query, safe='/,:$', quote_via=quote)}" if query else ""
    return KickoffRequest("GET", url + search, headers)


def _parameters(settings: SyncSettings, job: Job, elements: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Name, type and value of each parameter."""
    if job.output_format:
        yield "_outputFormat", "String", NDJSON_TYPE
    for each in job.types:
        yield "_type", "String", each
    if job.since:
        yield "_since", "Instant", job.since
    for each in settings.type_filters:
        if each.partition("?")[0] in job.types:  # a filter for another type is refused
            yield "_typeFilter", "String", each
    for each in elements:
        yield "_elements", "String", each


def read_kickoff(
    status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None = None, attempt: int = 1
) -> Started | Wait | Refused:
    """Interpret the answer to a kick-off."""
    location = headers.get("Content-Location") or headers.get("Location")
    if status in (200, 201, 202) and location:
        return Started(location, headers.get("Date", ""))
    issues = issue_codes(body)
    if is_busy(status, issues):
        return Wait(wait_seconds(retry_after, attempt=attempt))
    text = _explained(body)
    reason = f"the kick-off was answered {status}{listed(issues)}{f': {text}' if text else ''}"
    post_only = status == 405 or (status == 400 and b"POST" in body)
    return Refused(status, reason, unsupported=status in _UNSUPPORTED, post_only=post_only, text=text)


def narrower(job: Job, refused: Refused) -> tuple[Job, ...]:
    """The exports to try instead of a refused one; none if the source refuses its type or the level.

    First without ``_outputFormat``, then without ``_since``, then in parts: the types that the answer names separately,
    or, if it names none, the first type separately and the rest in halves. A type that is refused on its own is
    excluded; the others are exported.
    """
    named = tuple(each for each in job.types if re.search(rf"\b{each}\b", refused.text))
    few = 0 < len(named) < len(job.types)
    if refused.status not in _ASKED_WRONG and (not few or not refused.unsupported or "Patient" in named):
        return ()  # an answer that names Patient may mean the level of that name
    if not few or "_outputFormat" in refused.text:
        if job.output_format:
            return (replace(job, output_format=False),)
        if job.since:
            return (replace(job, since="", refused_since=job.since),)
    if few:
        parts = [tuple(each for each in job.types if each not in named), *((each,) for each in named)]
    elif len(job.types) > 1:
        middle = (len(job.types) + 1) // 2
        parts = [part for part in (job.types[:1], job.types[1:middle], job.types[middle:]) if part]
    else:
        return ()
    since = job.since or job.refused_since
    return tuple(replace(job, types=part, since=since, refused_since="", split=True) for part in parts)


def _explained(body: bytes) -> str:
    """The diagnostics and texts of an OperationOutcome, shortened, without what could identify a person or grant
    access."""
    texts = []
    for issue in objects(read_object(body).get("issue")):
        texts += [issue.get("diagnostics"), as_object(issue.get("details")).get("text")]
    said = "; ".join(dict.fromkeys(each.strip() for each in texts if isinstance(each, str) and each.strip()))
    return re.sub(r"\s+", " ", _PRIVATE.sub(" ... ", said)).strip()[:_SHOWN]
