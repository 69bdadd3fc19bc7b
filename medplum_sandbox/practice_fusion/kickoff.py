"""Reading a kick-off request: its parameters, or the refusal that this server would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.jobs import Request
from medplum_sandbox.practice_fusion.search import BadSearch, Query, parse_instant, read_type_filter
from medplum_sandbox.practice_fusion.source import Source
from medplum_sandbox.practice_fusion.switches import Level, Switches
from medplum_sandbox.practice_fusion.tokens import Grant

_FORMATS: Final = frozenset({"application/fhir+ndjson", "application/ndjson", "ndjson"})

Pairs = Sequence[tuple[str, str]]


class Refusal(Exception):
    """An answer with an OperationOutcome."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.body: Json = {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "code": code, "diagnostics": text}],
        }


@dataclass(frozen=True)
class Asked:
    """A kick-off request as received."""

    method: str
    level: Level
    group: str | None
    url: str
    headers: Mapping[str, str]
    pairs: Pairs

    @property
    def lenient(self) -> bool:
        """Whether unknown parameters may be ignored."""
        return "handling=lenient" in self.headers.get("prefer", "")


def read_kickoff(asked: Asked, switches: Switches, source: Source, grant: Grant) -> Request:
    """The request in plain values; Refusal if the server would not start a job."""
    _check_place(asked, switches, source)
    _check_headers(asked.headers)
    pairs = _known(asked, switches)
    types = _types(asked, _comma(pairs, "_type"), switches, grant)
    try:
        since = _since(_last(pairs, "_since"))
        filters = tuple(read_type_filter(text) for text in _all(pairs, "_typeFilter"))
    except BadSearch as error:
        raise Refusal(400, "invalid", str(error)) from error
    if (_last(pairs, "_outputFormat") or "ndjson") not in _FORMATS:
        raise Refusal(400, "not-supported", "This _outputFormat is not offered.")
    patients = frozenset(reference.rpartition("/")[2] for reference in _all(pairs, "patient"))
    return Request(
        level=asked.level,
        url=asked.url,
        group=asked.group,
        types=types,
        since=since,
        filters=_for_types(filters, types),
        patients=patients or None,
        partial=_last(pairs, "allowPartialManifests") == "true",
    )


def pairs_of_parameters(body: object) -> Pairs:
    """Names and values of a Parameters resource, in the words of the query string."""
    if not isinstance(body, dict) or body.get("resourceType") != "Parameters":
        raise Refusal(400, "structure", "A kick-off by POST has a Parameters resource as its body.")
    pairs = []
    for parameter in body.get("parameter", []):
        value = next((value for name, value in parameter.items() if name.startswith("value")), "")
        if isinstance(value, dict):
            value = value.get("reference", "")
        pairs.append((str(parameter.get("name")), str(value).lower() if isinstance(value, bool) else str(value)))
    return pairs


def _check_place(asked: Asked, switches: Switches, source: Source) -> None:
    if asked.level not in switches.levels:
        raise Refusal(404, "not-found", f"$export is not offered at the {asked.level} level.")
    if asked.method not in switches.methods:
        raise Refusal(405, "not-supported", f"A kick-off by {asked.method} is not offered.")
    if asked.group is None:
        return
    if asked.group not in source.groups:
        raise Refusal(404, "not-found", "There is no such Group.")
    if switches.group_limit is not None and len(source.groups[asked.group]) > switches.group_limit:
        raise Refusal(400, "too-costly", f"A Group for export has at most {switches.group_limit} patients.")


def _check_headers(headers: Mapping[str, str]) -> None:
    if "application/fhir+json" not in headers.get("accept", ""):
        raise Refusal(400, "invalid", "The header Accept: application/fhir+json is required.")
    if "respond-async" not in headers.get("prefer", ""):
        raise Refusal(400, "invalid", "The header Prefer: respond-async is required.")


def _known(asked: Asked, switches: Switches) -> Pairs:
    unknown = sorted({name for name, _ in asked.pairs if name not in switches.parameters})
    if unknown and not asked.lenient:
        raise Refusal(400, "not-supported", f"Unknown parameter: {', '.join(unknown)}")
    if any(name == "patient" for name, _ in asked.pairs) and asked.method != "POST":
        raise Refusal(400, "invalid", "The parameter patient is for kick-off by POST.")
    return [pair for pair in asked.pairs if pair[0] in switches.parameters]


def _types(asked: Asked, wanted: Sequence[str], switches: Switches, grant: Grant) -> tuple[str, ...]:
    allowed = tuple(kind for kind in switches.types if grant.allows(kind))
    if not wanted or "_type" not in switches.honors:
        return allowed
    unknown = [kind for kind in wanted if kind not in switches.types]
    if unknown and not asked.lenient:
        raise Refusal(400, "not-supported", f"Not available for export: {', '.join(unknown)}")
    refused = [kind for kind in wanted if kind in switches.types and kind not in allowed]
    if refused:
        raise Refusal(403, "forbidden", f"The token has no scope for: {', '.join(refused)}")
    return tuple(dict.fromkeys(kind for kind in wanted if kind in allowed))


def _for_types(filters: tuple[Query, ...], types: tuple[str, ...]) -> tuple[Query, ...]:
    if any(query.type not in types for query in filters):
        raise Refusal(400, "invalid", "A _typeFilter names a type that is not exported.")
    return filters


def _since(text: str | None) -> datetime | None:
    return None if text is None else parse_instant(text)


def _all(pairs: Pairs, name: str) -> list[str]:
    return [value for key, value in pairs if key == name]


def _comma(pairs: Pairs, name: str) -> list[str]:
    return [part.strip() for value in _all(pairs, name) for part in value.split(",") if part.strip()]


def _last(pairs: Pairs, name: str) -> str | None:
    values = _all(pairs, name)
    return values[-1] if values else None
