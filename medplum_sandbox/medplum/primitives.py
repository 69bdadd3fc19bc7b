"""Values of primitive types (https://hl7.org/fhir/R4/datatypes.html#primitive), as far as the server checks them."""

from __future__ import annotations

import re
from typing import Any

_YEAR = r"(?!0000)\d{4}"
_MONTH, _DAY = r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_SECONDS = r":[0-5]\d:([0-5]\d|60)(\.\d{1,9})?"
_HOUR, _ZONE = r"([01]\d|2[0-3])", r"(0\d|1[0-3]):[0-5]\d|14:00"
_ANY_TEXT = r"[\r\n\t\u0020-\U0010ffff]+"
# https://hl7.org/fhir/R4/datatypes.html#primitive, with what the server lets through: a dateTime without its zone.
_FORMATS = {
    name: re.compile(pattern, re.ASCII)
    for name, pattern in {
        "canonical": r"\S*",
        "code": r"\S+( \S+)*",
        "date": rf"{_YEAR}(-{_MONTH}(-{_DAY})?)?",
        "dateTime": rf"{_YEAR}(-{_MONTH}(-{_DAY}(T{_HOUR}({_SECONDS})?)?)?(Z|[+-]({_ZONE})?)?)?",
        "id": r"[A-Za-z0-9\-.]{1,64}",
        "instant": rf"{_YEAR}-{_MONTH}-{_DAY}T{_HOUR}{_SECONDS}(Z|[+-]({_ZONE}))",
        "markdown": _ANY_TEXT,
        "oid": r"urn:oid:[0-2](\.(0|[1-9]\d*))+",
        "string": _ANY_TEXT,
        "time": rf"{_HOUR}{_SECONDS}",
        "uri": r"\S*",
        "url": r"\S*",
        "uuid": r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    }.items()
}
_BASE64 = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_NUMBERS = frozenset(("decimal", "integer", "positiveInt", "unsignedInt"))
_LONGEST_STRING = 1024 * 1024


def problem_of(value: Any, name: str) -> str | None:
    """What is wrong with a primitive value, or None."""
    expected, actual = _expected_json_type(name), _json_type(value)
    if actual != expected:
        return wrong_type(name, actual)
    if expected == "string":
        return _string_problem(value, name)
    if expected == "number" and name != "decimal":
        if value != int(value):
            return "Expected number to be an integer"
        if name == "positiveInt" and value <= 0:
            return "Expected number to be positive"
        if name == "unsignedInt" and value < 0:
            return "Expected number to be non-negative"
    return None


def wrong_type(name: str, actual: str) -> str:
    """The message for a primitive value of a wrong JSON type, such as ``object``, or ``undefined`` where none is."""
    return f"Invalid JSON type: expected {_expected_json_type(name)}, but got {actual}"


def _expected_json_type(name: str) -> str:
    return "boolean" if name == "boolean" else "number" if name in _NUMBERS else "string"


def _string_problem(value: str, name: str) -> str | None:
    if name == "base64Binary":
        return None if _BASE64.fullmatch(value) else "Invalid base64Binary format"
    if not value.strip():
        return "String must contain non-whitespace content"
    if len(value) > _LONGEST_STRING:
        return "String cannot be larger than 1 MB"
    pattern = _FORMATS.get(name)
    return None if pattern is None or pattern.fullmatch(value) else f"Invalid {name} format"


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "object"
