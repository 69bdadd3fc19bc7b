"""Parameters, and the JSON Schema of an operation's input."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

OPERATION: Json = {
    "resourceType": "OperationDefinition",
    "parameter": [
        {"name": "practitioner", "use": "in", "min": 0, "max": "1", "type": "Reference"},
        {"name": "location", "use": "in", "min": 0, "max": "*", "type": "Reference"},
        {"name": "preview", "use": "in", "min": 0, "max": "1", "type": "boolean"},
        {"name": "action", "use": "in", "min": 1, "max": "1", "type": "code"},
        {"name": "count", "use": "in", "min": 0, "max": "1", "type": "integer"},
        {"name": "role", "use": "in", "min": 0, "max": "1", "type": "CodeableConcept"},
        {"name": "group", "use": "in", "min": 0, "max": "1", "part": []},
        {"name": "return", "use": "out", "min": 1, "max": "1", "type": "Parameters"},
    ],
}
ACTION: Json = {"name": "action", "valueCode": "start"}


def is_valid(*entries: Any) -> bool:
    validator = jsonschema.Draft202012Validator(parameters.input_schema(OPERATION))
    return validator.is_valid({"resourceType": "Parameters", "parameter": list(entries)})


def test_the_schema_itself_is_one() -> None:
    """It is a JSON Schema of 2020-12."""
    jsonschema.Draft202012Validator.check_schema(parameters.input_schema(OPERATION))


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "practitioner", "valueReference": {"reference": "Practitioner/1"}},
        {"name": "practitioner", "resource": {"resourceType": "Practitioner"}},
        {"name": "preview", "valueBoolean": False},
        {"name": "count", "valueInteger": 3},
        {"name": "role", "valueCodeableConcept": {"text": "x"}},
        {"name": "role", "resource": {}},
        {"name": "group", "part": []},
    ],
)
def test_each_type_takes_its_value(entry: Json) -> None:
    """A parameter is given by value[x] of its type; a Reference also by the resource."""
    assert is_valid(ACTION, entry)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "preveiw", "valueBoolean": True},
        {"name": "return", "resource": {"resourceType": "Parameters"}},
        {"name": "preview", "valueString": "true"},
        {"name": "preview", "valueBoolean": "true"},
        {"name": "count", "valueInteger": "3"},
        {"name": "practitioner", "valueReference": {}},
        {"name": "practitioner"},
        {"name": "role"},
        {"name": "group"},
        {"valueBoolean": True},
        {"name": "preview", "valueString": "x", "valueBoolean": True},
        "text",
    ],
)
def test_a_misspelt_name_or_another_type_is_refused(entry: Any) -> None:
    """A misspelt preview must not write anything."""
    assert not is_valid(ACTION, entry)


def test_text_may_be_given_as_its_own_type_or_as_a_string() -> None:
    """A code is often sent as valueString."""
    assert is_valid({"name": "action", "valueString": "start"})
    assert not is_valid({"name": "action", "valueCode": ""})


def test_the_cardinality_of_a_parameter_is_checked() -> None:
    """max 1 allows one, max * any number, min 1 requires at least one."""
    location = {"name": "location", "valueReference": {"reference": "Organization/1"}}
    preview = {"name": "preview", "valueBoolean": True}
    assert is_valid(ACTION, location, location)
    assert not is_valid(ACTION, preview, preview)
    assert not is_valid(location)


def test_parameters_are_built_of_the_given_entries() -> None:
    """None makes no entry."""
    built = parameters.build(
        parameters.code("a", "x"),
        parameters.string("b", None),
        parameters.string("b", ""),
        parameters.boolean("c", False),
        parameters.integer("d", 0),
        parameters.reference("e", "Practitioner/1"),
        parameters.resource("f", None),
        parameters.resource("f", {"resourceType": "Basic"}),
        parameters.parts("g", parameters.string("h", "i"), None),
    )
    assert built["parameter"] == [
        {"name": "a", "valueCode": "x"},
        {"name": "c", "valueBoolean": False},
        {"name": "d", "valueInteger": 0},
        {"name": "e", "valueReference": {"reference": "Practitioner/1"}},
        {"name": "f", "resource": {"resourceType": "Basic"}},
        {"name": "g", "part": [{"name": "h", "valueString": "i"}]},
    ]
    assert parameters.one(built, "a") == "x"
    assert parameters.one(built, "g") == [{"name": "h", "valueString": "i"}]
    assert parameters.values(built, "f") == [{"resourceType": "Basic"}]
    assert parameters.one(built, "missing") is None
