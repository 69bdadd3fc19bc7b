"""The generated tables, and the constraints that are read from them."""

from __future__ import annotations

from typing import Any

import fhirpathpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.constraints import Scope, constraint
from medplum_sandbox.medplum.definitions.constraint_table import Constraints
from medplum_sandbox.medplum.definitions.search_table import parse_path, translate
from medplum_sandbox.medplum.definitions.tables import (
    is_resource_type,
    mandatory_elements,
    parameters,
    resource_types,
    type_of,
)
from medplum_sandbox.medplum.definitions.type_table import PRIMITIVES, read, render
from medplum_sandbox.medplum.indexing import walk

TYPES = read(
    "Patient resource\n deceased[x] ? boolean dateTime\n telecom * ContactPoint\n link * PatientLink\n"
    "PatientLink part\n other 1 Reference\n"
)


def test_each_type_of_an_element_is_known() -> None:
    """No element leads to a type that the table does not have."""
    names = [name for name in resource_types() if is_resource_type(name)]
    seen: set[str] = set()
    while names:
        found = type_of(names.pop())
        assert found is not None
        for kind in {kind for element in found.elements for kind in element.types} - PRIMITIVES - seen:
            seen.add(kind)
            names.append(kind)
    assert len(resource_types()) > 160


def test_the_parameters_of_the_registry_are_there() -> None:
    """The counts of FHIR R4's own pages, plus Medplum's few."""
    codes = {name: set(parameters(name)) for name in resource_types()}
    assert {"value-quantity", "combo-code", "component-value-quantity", "derived-from", "has-member"} <= codes[
        "Observation"
    ]
    assert {"relatesto", "relation", "security-label", "authenticator"} <= codes["DocumentReference"]
    assert sum(len(found) for found in codes.values()) > 2500
    assert not codes["Binary"]
    assert mandatory_elements("Observation") == {"status", "code"}


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("Patient.link.other", "link.other"),
        ("Patient.deceased.exists() and Patient.deceased != false", "?deceasedBoolean/deceasedDateTime"),
        ("(Patient.deceased as dateTime)", "deceasedDateTime"),
        ("Patient.deceased.ofType(dateTime)", "deceasedDateTime"),
        ("Patient.telecom.where(system='email')", "telecom[system=email]"),
        ("Patient.link.other.where(resolve() is Patient)", "link.other>Patient"),
        ("Patient.link[0].other", "link[0].other"),
        ("iif(priority = 'stat', 50, iif(priority = 'asap', 40, 10))", "priority{stat:50,asap:40,*:10}"),
        ("Practitioner.name", None),
    ],
)
def test_an_expression_becomes_a_path(expression: str, path: str | None) -> None:
    """As the table writes it."""
    assert translate(expression, "Patient", TYPES) == path


def test_a_path_finds_what_its_steps_name() -> None:
    """Choices, first values and values with a property."""
    resource = {"telecom": [{"system": "email", "value": "a"}, {"system": "phone", "value": "b"}], "valueCode": "c"}
    assert list(walk(resource, parse_path("telecom[system=email].value").steps)) == ["a"]
    assert list(walk(resource, parse_path("telecom[1].value").steps)) == ["b"]
    assert list(walk(resource, parse_path("value*").steps)) == ["c"]


# Each rule with the names that it uses; fhirpathpy, which shares no code with the translation, is the oracle.
RULES = [
    ("obs-3", "ObservationReferenceRange", ("low", "high", "text")),
    ("pat-1", "PatientContact", ("name", "telecom", "address", "organization")),
    ("cpl-3", "CarePlanActivity", ("detail", "reference")),
    ("qrs-1", "QuestionnaireResponseItem", ("answer", "item")),
    ("ppc-1", "Consent", ("policy", "policyRule")),
    ("dom-2", "Patient", ("contained",)),
    ("ces-1", "CoverageEligibilityResponseInsuranceItem", ("category", "productOrService")),
]
FILLING = st.sampled_from([{"id": "a"}, [{"id": "a"}], [{"contained": [{"id": "b"}]}], "x"])


@given(st.sampled_from(RULES), st.data())
def test_a_translated_rule_means_what_its_expression_means(rule: tuple[str, str, Any], data: st.DataObject) -> None:
    """Whatever elements are there, the two agree."""
    key, type_name, names = rule
    value: Json = {name: data.draw(FILLING) for name in names if data.draw(st.booleans())}
    found = constraint(key, type_name)
    assert found.translated is not None
    assert found.holds(value, Scope(value, value)) == (fhirpathpy.evaluate(value, found.expression, {}) == [True])


def test_a_definition_becomes_lines_that_are_read_again() -> None:
    """A type, its backbone element and a choice, with cardinalities, targets and rules."""
    rule = {"key": "abc-1", "severity": "error", "human": "A\trule\n", "expression": "a.exists()"}
    profile = "http://hl7.org/fhir/StructureDefinition/"
    structure = {
        "name": "Thing",
        "type": "Thing",
        "kind": "resource",
        "url": f"{profile}Thing",
        "snapshot": {
            "element": [
                {"path": "Thing", "constraint": [rule]},
                {"path": "Thing.part", "min": 1, "max": "*", "type": [{"code": "BackboneElement"}]},
                {"path": "Thing.part.value[x]", "min": 0, "max": "1", "type": [{"code": "string"}, {"code": "Range"}]},
                {
                    "path": "Thing.owner",
                    "min": 0,
                    "max": "1",
                    "isSummary": True,
                    "type": [{"code": "Reference", "targetProfile": [f"{profile}Patient"]}],
                },
            ]
        },
    }
    constraints = Constraints()
    types = read(render([structure], constraints))
    thing, part = types.get("Thing"), types.get("ThingPart")
    assert thing is not None and part is not None
    assert [(e.name, e.least, e.many, e.types, e.targets, e.summary) for e in thing.elements] == [
        ("part", 1, True, ("ThingPart",), (), False),
        ("owner", 0, False, ("Reference",), ("Patient",), True),
    ]
    assert thing.constraints == ("abc-1",)
    assert part.elements[0].json_names == (("valueString", "string"), ("valueRange", "Range"))
    assert constraints.render() == "abc-1\tA\\trule\\n\ta.exists()\n"
