"""JSON as FHIR spells it: keys are strings, values are whatever JSON holds."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def objects(value: object) -> list[Json]:
    """The objects of a list; nothing where it is none, as what a partner sends may be anything."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def decode(body: bytes | str) -> Any:
    """The value of a JSON document. Raises ValueError where it is none, or is nested deeper than Python can read."""
    try:
        return json.loads(body)
    except RecursionError as fault:
        raise ValueError("The JSON document is nested too deep.") from fault


def encode(value: Any) -> bytes:
    """JSON as every transport writes it: the same value is the same bytes. Half of a surrogate pair becomes ``?``."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def text(value: object) -> str:
    """The value where it is text, else ""; what a code is compared with may be anything."""
    return value if isinstance(value, str) else ""
