"""JSON as FHIR spells it: keys are strings, values are whatever JSON holds."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

Json = dict[str, Any]
DEEPEST_JSON: Final = 100


def objects(value: object) -> list[Json]:
    """The objects of a list; nothing where it is none, as what a partner sends may be anything."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_object(value: object) -> Json:
    """The value where it is an object, else an empty one: what others send may be anything."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """The list; any other value is its only member, and None is an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def codings(concepts: object) -> list[Json]:
    """The Codings of a CodeableConcept, or of a list of them."""
    return [each for concept in objects(as_list(concepts)) for each in objects(concept.get("coding"))]


def decode(body: bytes | str) -> Any:
    """The value of a JSON document. Raises ValueError where it is none, or is nested deeper than Python can read."""
    try:
        return json.loads(body)
    except RecursionError as fault:
        raise ValueError("The JSON document is nested too deep.") from fault


def read_json(body: bytes) -> Any:
    """The value of a JSON document. Raises ValueError where it is none, or nested more than 100 levels deep.

    orjson refuses what other readers let through: NaN, half a surrogate pair, text that is not UTF-8.
    """
    value = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    if body.count(b"[") + body.count(b"{") > DEEPEST_JSON:
        _require_depth(value)
    return value


def read_object(body: bytes) -> Json:
    """The JSON object of a body; an empty one where the body is anything else."""
    try:
        return as_object(read_json(body))
    except ValueError:
        return {}


def _require_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST_JSON):
        children = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for child in children for each in child if type(each) in (dict, list)]
        if not level:
            return
    raise ValueError("The JSON document is nested too deep.")


def encode(value: Any) -> bytes:
    """JSON as every transport writes it: the same value is the same bytes. Half of a surrogate pair becomes ``?``."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def text(value: object) -> str:
    """The value where it is text, else ""; what a code is compared with may be anything."""
    return value if isinstance(value, str) else ""
