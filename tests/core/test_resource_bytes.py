"""Rewriting in bytes: where it may be done, and what it leaves to the parsed value."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bot_layer.core import upsert
from bot_layer.core.members import read_members
from bot_layer.core.references import Key
from bot_layer.core.resource_bytes import Marked, marked, names_of

BASE = "https://ehr.example/fhir"
PATIENT = Key("Patient", "p")
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o",
    "subject": {"reference": "Patient/p", "display": 'says "reference":"Patient/p" and more'},
    "performer": [{"reference": "#here"}, {"reference": f"{BASE}/Practitioner/d/_history/3"}],
    "identifier": [{"value": "1", "assigner": {"reference": "Patient/p"}}],
}


def marked_of(value: dict[str, Any], text: bytes = b"") -> bytes | None:
    """The resource with our mark, read from its text."""
    printed = text or orjson.dumps(value)
    found = read_members(printed)
    assert found is not None
    return marked(printed, *found, BASE)


def pointing(value: dict[str, Any], known: dict[Key, str], text: bytes = b"") -> dict[str, Any] | None:
    """The resource with references into Medplum."""
    body = marked_of(value, text)
    assert body is not None
    printed = Marked([body])
    (written,) = printed.pointing(names_of(printed.keys(BASE), known))
    return orjson.loads(written) if written is not None else None


def test_references_are_exchanged_and_nothing_else() -> None:
    """Also in an identifier; never in a text that only looks like one."""
    written = pointing(OBSERVATION, {PATIENT: "m1", Key("Practitioner", "d"): "m2"})
    assert written is not None
    assert written["subject"] == {**OBSERVATION["subject"], "reference": "Patient/m1"}
    assert written["performer"] == [{"reference": "#here"}, {"reference": "Practitioner/m2"}]
    assert written["identifier"][0]["assigner"] == {"reference": "Patient/m1"}
    assert "id" not in written


def test_a_missing_target_is_left_to_the_value() -> None:
    """It becomes a logical reference, which bytes can't make."""
    assert pointing(OBSERVATION, {PATIENT: "m1"}) is None


def test_one_missing_target_leaves_the_others_alone() -> None:
    """Each resource of a handful is answered for by itself, in order."""
    other = {"resourceType": "Observation", "id": "q", "subject": {"reference": "Patient/q"}}
    bodies = [marked_of(each) or b"" for each in (OBSERVATION, other, OBSERVATION)]
    printed = Marked(bodies)
    assert set(printed.keys(BASE).values()) == {PATIENT, Key("Practitioner", "d"), Key("Patient", "q"), None}
    names = names_of(printed.keys(BASE), {PATIENT: "m1", Key("Practitioner", "d"): "m2"})
    assert [each is None for each in printed.pointing(names)] == [False, True, False]
    assert Marked([]).pointing({}) == []


@pytest.mark.parametrize(
    "text",
    [
        b'{"resourceType":"Patient","id":"1","a":{"reference" : "Patient/p"}}',
        b'{"resourceType":"Patient","id":"1","a":{"reference": "Patient/p"}}',
        b'{"resourceType":"Patient","id":"1","a":{"reference":"Patient\\/p"}}',
    ],
)
def test_a_reference_that_is_spelled_otherwise_is_left_to_the_value(text: bytes) -> None:
    """White space and escapes: the value tells what is meant."""
    assert pointing({}, {PATIENT: "m1"}, text) is None


def test_white_space_around_the_members_does_no_harm() -> None:
    """Each member is taken as it is printed; what stands between them is not kept."""
    text = b'{ "meta" : {"tag":[{"code":"x"}] } , "resourceType" : "Patient" ,"identifier": [ ] , "id":"1" }'
    assert pointing({}, {}, text) == upsert.prepare(orjson.loads(text), BASE)


@pytest.mark.parametrize(
    "value",
    [
        {"resourceType": "Provenance", "id": "1"},
        {"resourceType": "Provenance", "id": "1", "meta": {"source": "urn:x", "security": [{"code": "R"}]}},
        {"resourceType": "Patient", "id": "1", "meta": {"versionId": '1"', "lastUpdated": "2026", "profile": ["p"]}},
        {"resourceType": "Patient", "id": "1", "meta": {"source": "urn:x"}},
        {"resourceType": "Patient", "id": "1", "meta": {}, "contained": [{"resourceType": "Patient", "id": "1"}]},
        {"resourceType": "Patient", "id": "1", "identifier": [{"system": "s", "value": "v"}, {"value": "w"}]},
    ],
)
def test_bytes_and_value_agree(value: dict[str, Any]) -> None:
    """Tags for types without identifiers, the source's own meta, and what it holds within itself."""
    assert upsert.comparable(pointing(value, {}) or {}) == upsert.comparable(upsert.prepare(value, BASE))


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
        {"meta": {"tag": []}},
        {"meta": {"tag": None}},
        {"meta": {"author": {"reference": "Patient/p"}}},
        {"identifier": {"value": "1"}},
        {"identifier": ["text"]},
        {"resourceType": "Provenance", "meta": {"tag": [{"code": "x"}]}},
    ],
)
def test_what_bytes_cannot_tell_is_left_to_the_value(more: dict[str, Any]) -> None:
    """Content, entries without a name of their own, keys that end like ours, our own tag."""
    assert marked_of(OBSERVATION | more) is None
