"""FHIR Parameters: read, built, and checked against an OperationDefinition.

https://hl7.org/fhir/R4/parameters.html and https://hl7.org/fhir/R4/operationdefinition.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bot_layer.fhir.json import Json, objects, text

_STRING_TYPES = frozenset(
    {"string", "code", "uri", "url", "canonical", "id", "date", "dateTime", "instant", "markdown", "oid"}
)
_REFERENCE_KEYS = frozenset({"reference", "type", "identifier", "display", "id", "extension"})
_SIMPLE_TYPES = {
    "boolean": (bool,),
    "integer": (int,),
    "positiveInt": (int,),
    "unsignedInt": (int,),
    "decimal": (int, float),
}


def values(parameters: Json, name: str) -> list[Any]:
    """Every value given under a name: ``value[x]``, the resource, or the list of parts."""
    return [_value(entry) for entry in objects(parameters.get("parameter")) if entry.get("name") == name]


def one(parameters: Json, name: str) -> Any:
    """The first value given under a name, or None."""
    found = values(parameters, name)
    return found[0] if found else None


def path_of(name: str) -> str:
    """The FHIRPath of an entry, for an error about it."""
    return f"Parameters.parameter.where(name='{name}')"


def build(*entries: Json | None) -> Json:
    """A Parameters resource of the entries that are there."""
    return {"resourceType": "Parameters", "parameter": [entry for entry in entries if entry is not None]}


def string(name: str, value: str | None) -> Json | None:
    """A text entry, or None where there is nothing to say."""
    return {"name": name, "valueString": value} if value else None


def code(name: str, value: str) -> Json:
    """A code entry."""
    return {"name": name, "valueCode": value}


def boolean(name: str, value: bool) -> Json:
    """A boolean entry."""
    return {"name": name, "valueBoolean": value}


def integer(name: str, value: int) -> Json:
    """An integer entry."""
    return {"name": name, "valueInteger": value}


def reference(name: str, value: str) -> Json:
    """A reference entry."""
    return {"name": name, "valueReference": {"reference": value}}


def resource(name: str, value: Json | None) -> Json | None:
    """A resource entry, or None where there is none."""
    return {"name": name, "resource": value} if value else None


def parts(name: str, *entries: Json | None) -> Json:
    """An entry of parts."""
    return {"name": name, "part": [entry for entry in entries if entry is not None]}


def faults(operation: Json, given: Json) -> list[str]:
    """Where Parameters differ from what an OperationDefinition takes: paths of FHIRPath, sorted, without the values.

    Unknown names are faults: a misspelt ``preveiw`` must not enroll a person.
    """
    taken = {each["name"]: each for each in operation.get("parameter", []) if each.get("use") == "in"}
    entries = given.get("parameter")
    if entries is None:
        return []
    if not isinstance(entries, list):
        return ["Parameters.parameter"]
    found = {_fault(taken, entry, f"Parameters.parameter[{number}]") for number, entry in enumerate(entries)}
    named = Counter(text(entry.get("name")) for entry in objects(entries))
    for name, parameter in taken.items():
        most = parameter.get("max", "1")
        if named[name] < parameter.get("min", 0) or (most != "*" and named[name] > int(most)):
            found.add("Parameters.parameter")
    return sorted(found - {""})


def _fault(taken: Mapping[str, Json], entry: Any, place: str) -> str:
    """The place of the fault in an entry; empty if it has a known name and one value of the right type."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return place
    parameter = taken.get(entry["name"])
    if parameter is None:
        return f"{place}.name"
    found = {key: value for key, value in entry.items() if key != "name"}
    if len(found) != 1:
        return place  # with two values it is unclear which one applies
    ((key, value),) = found.items()
    kind = parameter.get("type")
    own = "part" if kind is None else f"value{kind[0].upper()}{kind[1:]}"
    if _is_value(kind, own, key, value):
        return ""
    return f"{place}.{key}" if key == own else place


def _is_value(kind: str | None, own: str, key: str, value: Any) -> bool:
    """Whether a type takes the value of an element; ``own`` is the element of the type.

    Text may also be a ``valueString``, which is what people write, and any but the simple types a resource.
    """
    if kind in _STRING_TYPES:
        return key in (own, "valueString") and isinstance(value, str) and value != ""
    if key == "resource":
        return kind is not None and kind not in _SIMPLE_TYPES and isinstance(value, dict)
    if kind in _SIMPLE_TYPES:
        return key == own and type(value) in _SIMPLE_TYPES[kind]
    if kind == "Reference":
        return key == own and isinstance(value, dict) and "reference" in value
    return key == own and (kind is not None or isinstance(value, list))


def is_plain_call(operation: Json, target: str, given: Json) -> bool:
    """Whether an object that is no resource says only what a bot reads from one: a Reference, or the query of a GET.

    Texts and flags can stand in a query. What can't, or is misspelt, would be lost: a ``preview`` must not become a
    deed, nor another tenant the configured one.
    """
    if "reference" in given:
        return given.keys() <= _REFERENCE_KEYS
    types = {parameter["name"]: parameter.get("type") for parameter in operation.get("parameter", [])}
    return all(
        name in {target, "identifier"} or name.startswith("_") or _fits_query(types.get(name), value)
        for name, value in given.items()
    )


def _fits_query(kind: object, value: object) -> bool:
    if kind == "boolean":
        return value in ("true", "false")
    return kind == "code" and isinstance(value, str)


def _value(entry: Json) -> Any:
    for key, value in entry.items():
        if key.startswith("value"):
            return value
    return entry.get("resource", entry.get("part"))
