"""What a search can find a resource by: its index rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.dates import span
from medplum_sandbox.medplum.definitions.search_table import Parameter, Path, Step
from medplum_sandbox.medplum.definitions.tables import parameters
from medplum_sandbox.medplum.store import IndexRow

WHOLE = ":whole"
TEXT = ":text"
IDENTIFIER = ":identifier"
_LOCAL_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([^/?#]+)(/_history/.*)?")
_WORDS = re.compile(r"[^\s,;]+")


def index_rows(resource: Json) -> list[IndexRow]:
    """The rows of all parameters of the resource's type, each once."""
    found: dict[IndexRow, None] = {}
    paths = _paths(resource["resourceType"])
    for name in resource:
        for parameter, path in paths.get(name, ()):
            for value in walk(resource, path.steps):
                for row in _rows(parameter, path, value):
                    found[row] = None
    return list(found)


@cache
def _paths(resource_type: str) -> dict[str, list[tuple[Parameter, Path]]]:
    """The paths of a type's parameters, by the element that they begin with."""
    found: dict[str, list[tuple[Parameter, Path]]] = {}
    for parameter in parameters(resource_type).values():
        for path in parameter.paths:
            for name in path.steps[0].names:
                found.setdefault(name, []).append((parameter, path))
    return found


def walk(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    """Every value at the end of the path, lists opened."""
    if isinstance(value, list):
        for item in value:
            yield from walk(item, steps)
    elif not steps:
        if value is not None:
            yield value
    elif isinstance(value, dict):
        step = steps[0]
        for name in step.names:
            if name.endswith("*"):
                for one in [v for k, v in value.items() if k.startswith(name[:-1])]:
                    yield from walk(_kept(step, one), steps[1:])
            elif name in value:
                yield from walk(_kept(step, value[name]), steps[1:])


def _kept(step: Step, value: Any) -> Any:
    """What a step keeps of a value: one place of a list, or what has a certain property."""
    if step.index is not None:
        return value[step.index : step.index + 1] if isinstance(value, list) else value
    if step.key is not None:
        values = value if isinstance(value, list) else [value]
        return [one for one in values if isinstance(one, dict) and one.get(step.key) == step.value]
    return value


def references(resource: Json, parameter: Parameter) -> list[str]:
    """The literal references that a parameter finds in a resource."""
    return [
        value["reference"]
        for path in parameter.paths
        for value in walk(resource, path.steps)
        if isinstance(value, dict) and isinstance(value.get("reference"), str) and _wanted(value["reference"], path)
    ]


def split_reference(reference: str) -> tuple[str, str]:
    """(type, id) of a reference within the server; ("", text) of any other."""
    match = _LOCAL_REFERENCE.fullmatch(reference)
    return (match[1], match[2]) if match else ("", reference)


def words(text: str) -> list[str]:
    """The words of a text as they are compared: lower case, diacritics kept."""
    return _WORDS.findall(text.lower())


def _rows(parameter: Parameter, path: Path, value: Any) -> Iterator[IndexRow]:
    name = parameter.name
    if parameter.type == "token":
        yield from _token(name, value)
    elif parameter.type == "string":
        text = display_text(value)
        yield IndexRow(name + WHOLE, text)
        for word in words(text):
            yield IndexRow(name, word)
    elif parameter.type == "reference":
        yield from _reference(name, path, value)
    elif parameter.type == "date":
        first_last = span(value)
        if first_last is not None:
            yield IndexRow(name, first_last[0], high=first_last[1])
    elif parameter.type == "uri":
        yield IndexRow(name, str(value))
    else:
        number = value.get("value") if isinstance(value, dict) else value
        if isinstance(number, int | float):
            system = (value.get("system") or "") if isinstance(value, dict) else ""
            yield IndexRow(name, float(number), system)


def _token(name: str, value: Any) -> Iterator[IndexRow]:
    if isinstance(value, bool):
        yield IndexRow(name, "true" if value else "false", "")
    elif isinstance(value, str):
        yield IndexRow(name, value, "")
    elif isinstance(value, dict):
        if "value" in value:  # an Identifier or a ContactPoint
            yield IndexRow(name, str(value["value"]), value.get("system") or "")
        if "code" in value:
            yield IndexRow(name, str(value["code"]), value.get("system") or "")
        for coding in value.get("coding") or ():
            yield IndexRow(name, str(coding.get("code", "")), coding.get("system") or "")
            if "display" in coding:
                yield IndexRow(name + TEXT, coding["display"].lower())
        for text in (value.get("text"), value.get("display")):
            if isinstance(text, str):
                yield IndexRow(name + TEXT, text.lower())


def _reference(name: str, path: Path, value: Any) -> Iterator[IndexRow]:
    if isinstance(value, str):
        yield IndexRow(name, value, "")
        return
    reference = value.get("reference")
    if isinstance(reference, str) and _wanted(reference, path):
        kind, id_ = split_reference(reference)
        yield IndexRow(name, id_, kind)
    identifier = value.get("identifier")
    if isinstance(identifier, dict) and "value" in identifier:
        yield IndexRow(name + IDENTIFIER, str(identifier["value"]), identifier.get("system") or "")


def _wanted(reference: str, path: Path) -> bool:
    return path.target is None or reference.startswith(f"{path.target}/")


def display_text(value: Any) -> str:
    """A HumanName or Address as one line, or the string itself."""
    if not isinstance(value, dict):
        return str(value)
    if "text" in value and not any(k in value for k in ("family", "given", "line", "city")):
        return str(value["text"])
    parts: list[str] = []
    for key in ("prefix", "given", "family", "suffix", "line", "city", "district", "state", "postalCode", "country"):
        part = value.get(key, ())
        parts += [part] if isinstance(part, str) else part
    return " ".join(parts)
