"""Rewriting in bytes: where it may be done, and what it leaves to the parsed value."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bot_layer.core import upsert
from bot_layer.core.references import Key
from bot_layer.core.resource_bytes import cut, joined

BASE = "https://ehr.example/fhir"
PATIENT = Key("Patient", "p")
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o",
    "subject": {"reference": "Patient/p", "display": 'says "reference":"Patient/p" and more'},
    "performer": [{"reference": "#here"}, {"reference": f"{BASE}/Practitioner/d/_history/3"}],
    "identifier": [{"value": "1", "assigner": {"reference": "Patient/p"}}],
}


def test_references_are_exchanged_and_nothing_else() -> None:
    """Also in an identifier; never in a text that only looks like one."""
    pieces = cut(OBSERVATION, source=BASE, dumps=orjson.dumps)
    assert pieces is not None
    assert {each for each in pieces.keys if each} == {PATIENT, Key("Practitioner", "d")}
    body = joined(pieces, {PATIENT: "m1", Key("Practitioner", "d"): "m2"})
    assert body is not None
    written = orjson.loads(body)
    assert written["subject"] == {**OBSERVATION["subject"], "reference": "Patient/m1"}
    assert written["performer"] == [{"reference": "#here"}, {"reference": "Practitioner/m2"}]
    assert written["identifier"][0]["assigner"] == {"reference": "Patient/m1"}


def test_a_missing_target_is_left_to_the_value() -> None:
    """It becomes a logical reference, which bytes can't make."""
    pieces = cut(OBSERVATION, source=BASE, dumps=orjson.dumps)
    assert pieces is not None
    assert joined(pieces, {PATIENT: "m1"}) is None


@pytest.mark.parametrize(
    "more",
    [
        {"resourceType": "Binary"},
        {"resourceType": "DiagnosticReport", "presentedForm": [{"url": "x"}]},
        {"resourceType": "DocumentReference", "content": []},
        {"identifier": [{"assigner": {"reference": "Patient/p"}}]},
        {"extension": [{"valueReference": {"reference": "Patient/p"}}]},
        {"odd": {'x"reference': "Patient/p"}},
        {"meta": {"tag": [{"system": upsert.SYNC_TAG, "code": "unresolved-reference"}]}},
    ],
)
def test_what_bytes_cannot_tell_is_left_to_the_value(more: dict[str, Any]) -> None:
    """Content, entries without a name of their own, keys that end like ours, our own tag."""
    assert cut(OBSERVATION | more, source=BASE, dumps=orjson.dumps) is None
