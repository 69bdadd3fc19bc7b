"""Whether a resource has the structure of its type, with Medplum's messages in Medplum's order.

Medplum looks at each element in the order of the definition, goes down into it, and names what is superfluous last.
Codes are not checked (the feature validate-terminology is off).
"""

from __future__ import annotations

import re
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.invariants import INVARIANTS
from medplum_sandbox.medplum.outcomes import bad_request, invalid, issue
from medplum_sandbox.medplum.structure import ANY_RESOURCE, Element, Shape, is_resource_type, shape

_DATE = r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d{1,9})?"
_ZONE = r"(Z|[+-]((0\d|1[0-3]):[0-5]\d|14:00))"
# https://hl7.org/fhir/R4/datatypes.html#primitive
_FORMATS = {
    "base64Binary": re.compile(r"[A-Za-z0-9+/=\s]*"),
    "canonical": re.compile(r"\S*"),
    "code": re.compile(r"\S+( \S+)*"),
    "date": re.compile(_DATE),
    "dateTime": re.compile(rf"{_DATE}|\d{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T{_TIME}{_ZONE}"),
    "id": re.compile(r"[A-Za-z0-9\-.]{1,64}"),
    "instant": re.compile(rf"\d{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T{_TIME}{_ZONE}"),
    "oid": re.compile(r"urn:oid:[0-2](\.(0|[1-9]\d*))+"),
    "time": re.compile(_TIME),
    "uri": re.compile(r"\S*"),
    "url": re.compile(r"\S*"),
    "uuid": re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
}
_INTEGERS = {"integer": None, "unsignedInt": 0, "positiveInt": 1}


def validate(resource: Json) -> None:
    """Raises 400 with every issue, or returns."""
    resource_type = resource.get("resourceType")
    if not isinstance(resource_type, str):
        raise bad_request("Missing resource type")
    found = shape(resource_type) if is_resource_type(resource_type) else None
    if found is None:
        raise bad_request(f"Unknown data type: {resource_type}")
    issues: list[Json] = []
    _object(resource, found, resource_type, issues)
    if issues:
        raise invalid(issues)


def clean(value: Any) -> Any:
    """The value without empty strings, objects and lists, which Medplum drops silently; None where nothing is left."""
    if isinstance(value, dict):
        kept = {k: c for k, v in value.items() if (c := clean(v)) is not None}
        return kept or None
    if isinstance(value, list):
        items = [clean(v) for v in value]
        return items if any(v is not None for v in items) else None
    return None if value == "" else value


def _object(value: Json, kind: Shape, path: str, issues: list[Json]) -> None:
    elements = kind.elements
    steps = [(elements[name].position, True, name) for name in value if name in elements]
    steps += [(position, False, label) for position, label in _missing(value, kind)]
    steps.sort()
    for _, present, name in steps:
        if present:
            choice = elements[name].choice
            _property(value[name], elements[name], f"{path}.{choice}[x]" if choice else f"{path}.{name}", issues, value)
        else:
            issues.append(_structure("Missing required property", f"{path}.{name}"))
    for invariant in INVARIANTS.get(kind.name, ()):
        if not invariant.holds(value):
            text = f"Constraint {invariant.key} not met: {invariant.human}"
            issues.append(issue("error", "invariant", text, expression=path, diagnostics=invariant.diagnostics()))
    issues += [
        _structure(f'Invalid additional property "{name}"', f"{path}.{name}")
        for name, item in value.items()
        if not _belongs(name, item, kind)
    ]


def _belongs(name: str, item: Any, kind: Shape) -> bool:
    element = kind.elements.get(name)
    if element is not None:
        return element.choice is None or item != ""  # an empty choice has no type that Medplum would recognise
    if name == "resourceType":
        return kind.resource
    base = kind.elements.get(name[1:]) if name.startswith("_") else None
    return base is not None and base.primitive


def _property(value: Any, element: Element, path: str, issues: list[Json], parent: Json) -> None:
    if value is None:
        issues.append(_structure("Invalid null value", path))
        return
    if not element.many:
        if isinstance(value, list):
            issues.append(_structure("Expected single value for property", path))
        elif value != "":
            _value(value, element, path, issues)
        return
    if not isinstance(value, list):
        issues.append(_structure("Expected array of values for property", path))
        return
    for position, item in enumerate(value):
        if item is None:
            if f"_{element.name}" not in parent:
                issues.append(_structure("Invalid null value", f"{path}[{position}]"))
        else:
            _value(item, element, f"{path}[{position}]", issues)


def _value(value: Any, element: Element, path: str, issues: list[Json]) -> None:
    if element.primitive:
        text = _primitive(value, element.type)
        if text is not None:
            issues.append(_structure(text, path))
        return
    if not isinstance(value, dict):
        issues.append(_structure(f"Invalid JSON type: expected object, but got {_json_type(value)}", path))
        return
    name = element.type
    if name == ANY_RESOURCE:
        name = str(value.get("resourceType"))
        if not is_resource_type(name):
            issues.append(_structure("Missing required property", f"{path}.resourceType"))
            return
    found = shape(name)
    if found is not None:
        _object(value, found, path, issues)


def _primitive(value: Any, name: str) -> str | None:
    """What is wrong with the value, or None."""
    expected = "boolean" if name == "boolean" else "number" if name in _INTEGERS or name == "decimal" else "string"
    actual = _json_type(value)
    if actual != expected:
        return f"Invalid JSON type: expected {expected}, but got {actual}"
    if expected == "string":
        if value == "":
            return None
        if not value.strip():
            return "String must contain non-whitespace content"
        pattern = _FORMATS.get(name)
        return None if pattern is None or pattern.fullmatch(value) else f"Invalid {name} format"
    if name in _INTEGERS:
        if value != int(value):
            return "Expected number to be an integer"
        least = _INTEGERS[name]
        if least is not None and value < least:
            return f"Expected number to be {'non-negative' if least == 0 else 'positive'}"
    return None


def _missing(value: Json, kind: Shape) -> list[tuple[int, str]]:
    """What is required and not there, as (position, label). What is null gets a message of its own."""
    return [
        (kind.elements[names[0]].position, label)
        for label, names in kind.required
        if not any(value.get(n, "") not in ("", [], {}) or f"_{n}" in value for n in names)
    ]


def _structure(text: str, path: str) -> Json:
    return issue("error", "structure", text, expression=path)


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "object"
