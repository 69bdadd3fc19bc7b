"""FHIR Parameters: read, built, and checked against an OperationDefinition.

https://hl7.org/fhir/R4/parameters.html and https://hl7.org/fhir/R4/operationdefinition.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot_layer.fhir.json import Json

_STRING_TYPES = frozenset(
    {"string", "code", "uri", "url", "canonical", "id", "date", "dateTime", "instant", "markdown", "oid"}
)
_REFERENCE_KEYS = frozenset({"reference", "type", "identifier", "display", "id", "extension"})
_NUMBER_TYPES = {"integer": "integer", "positiveInt": "integer", "unsignedInt": "integer", "decimal": "number"}


def values(parameters: Json, name: str) -> list[Any]:
    """Every value given under a name: ``value[x]``, the resource, or the list of parts."""
    return [_value(entry) for entry in _entries(parameters) if entry.get("name") == name]


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


def input_schema(operation: Json) -> Json:
    """The JSON Schema (2020-12) of the Parameters that an OperationDefinition takes.

    Unknown names are refused: a misspelt ``preveiw`` must not enroll a person.
    """
    taken = [parameter for parameter in operation.get("parameter", []) if parameter.get("use") == "in"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["resourceType"],
        "properties": {
            "resourceType": {"const": "Parameters"},
            "parameter": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    # The name and one value: with two values it is unclear which one applies.
                    "maxProperties": 2,
                    "properties": {"name": {"enum": [parameter["name"] for parameter in taken]}},
                    "allOf": [_rule(parameter) for parameter in taken],
                },
                "allOf": [_how_many(parameter) for parameter in taken],
            },
        },
    }


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


def _rule(parameter: Json) -> Json:
    """If the entry has this name, then it has a value of this type."""
    return {
        "if": {"properties": {"name": {"const": parameter["name"]}}, "required": ["name"]},
        "then": _value_schema(parameter),
    }


def _how_many(parameter: Json) -> Json:
    bounds: Json = {
        "contains": {"properties": {"name": {"const": parameter["name"]}}, "required": ["name"]},
        "minContains": 0,
    }
    if parameter.get("max", "1") != "*":
        bounds["maxContains"] = int(parameter.get("max", "1"))
    if parameter.get("min", 0):
        bounds["minContains"] = parameter["min"]
    return bounds


def _value_schema(parameter: Json) -> Json:
    kind = parameter.get("type")
    if kind is None:
        return {"required": ["part"], "properties": {"part": {"type": "array"}}}
    if kind == "Reference":
        by_reference: Json = {
            "required": ["valueReference"],
            "properties": {"valueReference": {"type": "object", "required": ["reference"]}},
        }
        return {"anyOf": [by_reference, {"required": ["resource"], "properties": {"resource": {"type": "object"}}}]}
    key = f"value{kind[0].upper()}{kind[1:]}"
    if kind == "boolean":
        return {"required": [key], "properties": {key: {"type": "boolean"}}}
    if kind in _NUMBER_TYPES:
        return {"required": [key], "properties": {key: {"type": _NUMBER_TYPES[kind]}}}
    if kind in _STRING_TYPES:
        return _text_schema(key)
    return {"anyOf": [{"required": [key]}, {"required": ["resource"]}]}


def _text_schema(key: str) -> Json:
    """Text under its own key, or under ``valueString``, which is what people write."""
    text: Json = {"type": "string", "minLength": 1}
    keys = sorted({key, "valueString"})
    return {"anyOf": [{"required": [name], "properties": {name: text}} for name in keys]}


def _entries(parameters: Json) -> Sequence[Json]:
    entries = parameters.get("parameter")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _value(entry: Json) -> Any:
    for key, value in entry.items():
        if key.startswith("value"):
            return value
    return entry.get("resource", entry.get("part"))
