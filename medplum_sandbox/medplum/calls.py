"""HTTP requests and responses, as the endpoints see them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request, traced
from medplum_sandbox.medplum.world import Actor
from medplum_sandbox.shell import Answer

__all__ = [
    "FHIR_TYPE",
    "HL7_TYPE",
    "JSON_TYPE",
    "Answer",
    "Call",
    "grouped",
    "is_text",
    "json_answer",
    "outcome_answer",
    "parse_json",
    "server_error",
    "shown",
    "with_charset",
]

JSON_TYPE = "application/json; charset=utf-8"
FHIR_TYPE = "application/fhir+json; charset=utf-8"
_FORM = "application/x-www-form-urlencoded"
HL7_TYPE = "x-application/hl7-v2+er7"


@dataclass(frozen=True)
class Call:
    """One authenticated request; ``target`` is path and query as they were sent, header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    actor: Actor
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query string, decoded, in its order."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def content_type(self) -> str | None:
        """As it was sent."""
        return self.headers.get("content-type")

    def parsed_body(self, *, hl7: bool = False) -> Any:
        """The body by its type: JSON, the fields of a form, or text; ``{}`` if there is none or its type is not parsed.

        With ``hl7`` a message must be one, and is written with the line ends of the standard.
        """
        kind = (self.content_type or "").partition(";")[0].strip().lower()
        if kind == HL7_TYPE and hl7:
            return _message(self.body.decode(errors="replace"))
        if not self.body:
            return "" if is_text(kind) and "content-length" in self.headers else {}
        if kind == "application/json" or kind.endswith("+json"):
            return parse_json(self.body)
        if kind == _FORM:
            return grouped(parse_qsl(self.body.decode(), keep_blank_values=True))
        return self.body.decode() if is_text(kind) else {}


def parse_json(body: bytes) -> Any:
    """The JSON value, or the recorded 400."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise bad_request("Content could not be parsed") from error


def _message(text: str) -> str:
    """An HL7 v2 message with one carriage return between its segments, or 400."""
    if not text.startswith("MSH"):
        raise bad_request("Content could not be parsed")
    return "\r".join(re.split(r"[\r\n]+", text))


def is_text(kind: str) -> bool:
    """Whether a content type reaches a bot as text, and is answered in its own type."""
    return kind in ("text/plain", HL7_TYPE)


def grouped(pairs: list[tuple[str, str]]) -> Json:
    """Query or form fields as an object: a repeated name has a list."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def json_answer(status: int, body: Any, *, content_type: str = JSON_TYPE, **headers: str) -> Answer:
    """The value as compact JSON."""
    return Answer(status, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(), content_type, headers)


def shown(resource: Json) -> Json:
    """The resource without the parts of ``meta`` that only extended responses show."""
    meta = {key: value for key, value in resource["meta"].items() if key not in ("author", "project", "compartment")}
    return {**resource, "meta": meta}


def outcome_answer(status: int, outcome: Json, *, headers: dict[str, str] | None = None) -> Answer:
    """An outcome that the server itself answers: it carries the ids of the request."""
    answer = json_answer(status, traced(outcome), content_type=FHIR_TYPE)
    return Answer(answer.status, answer.body, answer.content_type, headers or {})


def server_error() -> Answer:
    """The response to an unexpected exception."""
    return json_answer(500, {"msg": "Internal Server Error"})


def with_charset(content_type: str) -> str:
    """The content type as the server sends it: a text has a charset."""
    textual = content_type.startswith("text/") or "json" in content_type or "xml" in content_type
    return f"{content_type}; charset=utf-8" if textual and "charset" not in content_type else content_type
