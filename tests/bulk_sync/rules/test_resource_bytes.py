"""Rewriting in bytes: where it may be done, and what it leaves to the parsed value."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import resource_bytes, upsert
from bot_layer.bulk_sync.rules.ndjson import Resource, read_resources, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.resource_bytes import Marked

BASE = "https://ehr.example/fhir"
PATIENT = Key("Patient", "p")
KNOWN = {PATIENT: "m1", Key("Practitioner", "d"): "m2"}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o",
    "code": "reference",
    "subject": {"reference": "Patient/p", "display": 'says "reference":"Patient/p" and more'},
    "performer": [{"reference": "#here"}, {"reference": f"{BASE}/Practitioner/d/_history/3"}],
    "identifier": [{"value": "1", "assigner": {"reference": "Patient/p"}}],
}


def read(*texts: bytes) -> dict[Key, Resource]:
    """The resources of these lines, by key."""
    items = [each for each in read_resources(split_lines([b"\n".join(texts)])) if isinstance(each, Resource)]
    return {each.key: each for each in items if each.key is not None}


def pointing(known: dict[Key, str], *texts: bytes) -> dict[str, dict[str, Any]]:
    """The resources with references into Medplum, by the source's id; each is JSON that stands on one line."""
    bodies = Marked(read(*texts), BASE).pointing(known)
    assert not [body for body in bodies.values() if b"\n" in body]
    return {key.id: orjson.loads(body) for key, body in bodies.items()}


def test_references_are_exchanged_and_nothing_else() -> None:
    """Also in an identifier; never in a text that only looks like one."""
    written = pointing(KNOWN, orjson.dumps(OBSERVATION))["o"]
    assert written["subject"] == {**OBSERVATION["subject"], "reference": "Patient/m1"}
    assert written["performer"] == [{"reference": "#here"}, {"reference": "Practitioner/m2"}]
    assert written["identifier"][0]["assigner"] == {"reference": "Patient/m1"}
    assert written["code"] == "reference"
    assert "id" not in written


def test_one_missing_target_leaves_the_others_alone() -> None:
    """It becomes a logical reference, which bytes can't make; each resource of a handful is answered for by itself."""
    texts = [orjson.dumps(OBSERVATION | {"id": each}) for each in "abc"]
    texts.insert(1, b'{"resourceType":"Observation","id":"q","subject":{"reference":"Patient/q"}}')
    marked = Marked(read(*texts), BASE)
    assert marked.targets() == {PATIENT, Key("Practitioner", "d"), Key("Patient", "q")}
    assert list(pointing(KNOWN, *texts)) == ["a", "b", "c"]
    assert pointing({}, *texts) == {}
    assert Marked({}, BASE).pointing({}) == {}


@pytest.mark.parametrize(
    "reference",
    [
        b'"reference" : "Patient/p"',
        b'"reference": "Patient/p"',
        b'"reference":"Patient\\/p"',
        b'"\\u0072eference":"Patient/p"',
        b'"note":"\\u003cb\\u003e","reference":"Patient/p"',
    ],
)
def test_a_reference_that_is_spelled_otherwise_means_the_same(reference: bytes) -> None:
    """White space and escapes: the resource is printed anew; so are its neighbours, which end as without it."""
    odd = b'{"resourceType":"Patient","id":"1","a":{%b}}' % reference
    other = orjson.dumps(OBSERVATION)
    assert Marked(read(odd), BASE).targets() == {PATIENT}
    found = pointing(KNOWN, other, odd, orjson.dumps(OBSERVATION | {"id": "o2"}))
    assert found["1"]["a"]["reference"] == "Patient/m1"
    assert list(found) == ["o", "1", "o2"]
    assert found["o"] == pointing(KNOWN, other)["o"]


@pytest.mark.parametrize("odd", [b'{"reference":1}', b'{"reference":{"reference":"#x"}}', b'{"reference":["#x"]}'])
def test_what_is_no_text_is_no_reference(odd: bytes) -> None:
    """Also at the end of a line, where the next text that is quoted stands in the next line."""
    text = b'{"resourceType":"Patient","id":"1","identifier":[{"value":"1"}],"meta":{},"x":%b}' % odd
    neighbours = [orjson.dumps(OBSERVATION | {"id": each}) for each in "ab"]
    found = pointing(KNOWN, neighbours[0], text, neighbours[1])
    assert found.pop("1")["x"] == orjson.loads(odd)
    assert found == pointing(KNOWN, *neighbours)


def test_a_reference_that_cannot_be_told_takes_no_neighbour_along() -> None:
    """An escape that stays one however it is printed."""
    text = b'{"resourceType":"Patient","id":"1","x":{"reference":"Patient/\\"p"}}'
    neighbours = [orjson.dumps(OBSERVATION | {"id": each}) for each in "ab"]
    assert pointing(KNOWN, neighbours[0], text, neighbours[1]) == pointing(KNOWN, *neighbours)


def test_a_name_that_only_ends_like_reference_is_left_alone() -> None:
    """Its quote is escaped."""
    value = {"resourceType": "Patient", "id": "1", "odd": {'x"reference': "Patient/p"}}
    assert pointing(KNOWN, orjson.dumps(value))["1"]["odd"] == value["odd"]


def test_white_space_around_the_members_does_no_harm() -> None:
    """Each member is taken as it is printed; what stands between them is not kept."""
    text = b'{ "meta" : {"tag":[{"code":"x"}] } , "resourceType" : "Patient" ,"identifier": [ ] , "id":"1" }'
    assert pointing({}, text)["1"] == source_mark.prepare(orjson.loads(text), BASE)


def test_marking_again_says_the_same() -> None:
    """The resources are left as they are; and an address may hold what would mean something in a template."""
    source = "https://ehr.example/a%20b"
    text = orjson.dumps({"resourceType": "Patient", "id": "1", "meta": {"versionId": "2"}})
    resources = read(text)
    for _ in range(2):
        (body,) = Marked(resources, source).pointing({}).values()
        assert orjson.loads(body) == source_mark.prepare(orjson.loads(text), source)


def test_what_came_out_of_a_document_is_told_too() -> None:
    """It stood on no line of its own: it is printed first."""
    text = orjson.dumps([OBSERVATION])
    assert pointing(KNOWN, text) == pointing(KNOWN, text[1:-1])


@pytest.mark.parametrize(
    "value",
    [
        {"resourceType": "Provenance", "id": "1"},
        {
            "resourceType": "Patient",
            "id": "1",
            "meta": {"id": "m", "extension": [{"url": "100 %", "valueString": "%b"}]},
        },
        {"resourceType": "Patient", "id": "1", "identifier": [{"system": "%b", "value": "100 %"}]},
        {"resourceType": "Provenance", "id": "1", "meta": {"source": "urn:x", "security": [{"code": "R"}]}},
        {"resourceType": "Patient", "id": "1", "meta": {"versionId": '1"', "lastUpdated": "2026", "profile": ["p"]}},
        {"resourceType": "Patient", "id": "1", "meta": {"source": "urn:x"}},
        {"resourceType": "Patient", "id": "1", "meta": {}, "contained": [{"resourceType": "Patient", "id": "1"}]},
        {"resourceType": "Patient", "id": "1", "identifier": [{"system": "s", "value": "v"}, {"value": "w"}]},
    ],
)
def test_bytes_and_value_agree(value: dict[str, Any]) -> None:
    """Tags for types without identifiers, the source's own meta, and what it holds within itself."""
    (written,) = pointing({}, orjson.dumps(value)).values()
    assert upsert.comparable(written) == upsert.comparable(source_mark.prepare(value, BASE))


@pytest.mark.parametrize(
    "more",
    [
        {"resourceType": "Binary"},
        {"identifier": [{"assigner": {"reference": "Patient/p"}}]},
        {"extension": [{"valueReference": {"reference": "Patient/p"}}]},
        {"meta": {"tag": [{"system": source_mark.SYNC_TAG, "code": "unresolved-reference"}]}},
        {"meta": {"tag": []}},
        {"meta": {"tag": None}},
        {"meta": {"author": {"reference": "Patient/p"}}},
        {"identifier": {"value": "1"}},
        {"identifier": ["text"]},
        {"resourceType": "Provenance", "meta": {"tag": [{"code": "x"}]}},
    ],
)
def test_what_bytes_cannot_tell_is_left_to_the_value(more: dict[str, Any]) -> None:
    """A Binary, entries without a name of their own, our own tag."""
    neighbour = orjson.dumps(OBSERVATION | {"id": "neighbour"})
    assert list(pointing(KNOWN, orjson.dumps(OBSERVATION | more), neighbour)) == ["neighbour"]


def test_large_lists_are_not_remembered() -> None:
    """Thousands of them would be held in memory, although none comes again."""
    caches = (resource_bytes._owned_of, resource_bytes._tokens)
    before = [each.cache_info().currsize for each in caches]
    extension = [{"url": "https://example.org/x", "valueString": "y" * 10_000}]
    resources = read(orjson.dumps({"resourceType": "Patient", "id": "large", "extension": extension}))
    assert Marked(resources, BASE).keys == list(resources)
    assert [each.cache_info().currsize for each in caches] == before
