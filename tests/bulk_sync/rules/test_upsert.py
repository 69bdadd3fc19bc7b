"""What is written, and what is not touched."""

from __future__ import annotations

import orjson

from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import ORIGIN_URL, UPDATED_URL, VERSION_URL, lookup_query
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, Write, write_entry
from bot_layer.fhir.json import Json
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry

SOURCE = "https://source.example/fhir"
KEY = Key("Patient", "1")
PATIENT: Json = {
    "resourceType": "Patient",
    "id": "1",
    "meta": {"versionId": "7", "lastUpdated": "2024-01-01T00:00:00Z", "profile": ["p"], "source": "urn:own"},
    "identifier": [{"system": "https://mrn.example", "value": "m"}, {"value": "bare"}],
    "active": True,
}


def incoming(resource: Json = PATIENT) -> Incoming:
    """A resource as it arrives."""
    return Incoming(Key(resource["resourceType"], resource["id"]), source_mark.prepare(resource, SOURCE))


def stored(resource: Json, **changes: object) -> Found:
    """The same in Medplum, with what the server adds."""
    meta = resource["meta"] | {"versionId": "v", "lastUpdated": "now", "author": {"reference": "Bot/1"}}
    return Found("m1", "v", {**resource, "id": "m1", "meta": meta} | changes)


def test_the_sources_id_becomes_an_identifier_and_its_version_is_kept_with_it() -> None:
    """The original data stay; the id and the server's meta are removed; the source's own meta.source is not touched."""
    made = source_mark.prepare(PATIENT, SOURCE)
    assert "id" not in made
    assert made["meta"] == {"profile": ["p"], "source": "urn:own"}
    assert made["identifier"][:2] == PATIENT["identifier"]
    mark = made["identifier"][2]
    assert (mark["system"], mark["value"]) == ("https://practicefusion.com/fhir/patient-id", "1")
    notes = {each["url"]: each.get("valueString") or each.get("valueUri") for each in mark["extension"]}
    assert notes[VERSION_URL] == "7"
    assert notes[UPDATED_URL] == "2024-01-01T00:00:00Z"
    assert notes[ORIGIN_URL] == f"{SOURCE}/Patient/1"
    bare = source_mark.prepare({"resourceType": "Patient", "id": "1"}, SOURCE)
    assert bare["meta"]["source"] == f"{SOURCE}/Patient/1"


def test_types_without_identifier_are_marked_by_a_tag() -> None:
    """Provenance has no identifier; a tag can be searched."""
    made = source_mark.prepare({"resourceType": "Provenance", "id": "1", "meta": {"tag": [{"code": "x"}]}}, SOURCE)
    assert "identifier" not in made
    assert [each["code"] for each in made["meta"]["tag"]] == ["x", "1"]
    found = stored(made)
    plan = upsert.plan({Key("Provenance", "1"): found}, [Incoming(Key("Provenance", "1"), made)])
    assert len(plan.unchanged) == 1


def test_a_single_identifier_of_the_source_is_not_touched() -> None:
    """QuestionnaireResponse has one identifier, and it is the source's."""
    given: Json = {"resourceType": "QuestionnaireResponse", "id": "1", "identifier": {"value": "own"}}
    made = source_mark.prepare(given, SOURCE)
    assert made["identifier"] == {"value": "own"}
    assert upsert.merged(stored(made), Incoming(Key("QuestionnaireResponse", "1"), made))["identifier"] == {
        "value": "own"
    }


def test_a_missing_resource_is_created_and_an_equal_one_left_alone() -> None:
    """A new version number at the source, with the same content, is no change."""
    assert len(upsert.plan({}, [incoming()]).creates) == 1
    found = stored(incoming().resource)
    newer = PATIENT | {"meta": PATIENT["meta"] | {"versionId": "8"}}
    assert len(upsert.plan({KEY: found}, [incoming(newer)]).unchanged) == 1


def test_an_update_names_the_version_that_it_replaces() -> None:
    """It reports that it overwrites an edit; other policies keep the edit."""
    found = stored(incoming().resource)
    changed = PATIENT | {"active": False}
    (write,) = upsert.plan({KEY: found}, [incoming(changed)]).updates
    assert (write.id, write.version, write.overwrites_edit) == ("m1", "v", False)
    edited = Found("m1", "v", found.resource, edited=True)
    assert upsert.plan({KEY: edited}, [incoming(changed)]).updates[0].overwrites_edit
    for policy in ("keep", "report"):
        assert len(upsert.plan({KEY: edited}, [incoming(changed)], policy=policy).kept) == 1


def test_a_resource_marked_by_hand_is_ours() -> None:
    """So is a resource that an older sync imported, which named no address; another practice's resource is not."""
    by_hand = {
        "resourceType": "Patient",
        "identifier": [{"system": "https://practicefusion.com/fhir/patient-id", "value": "1"}],
    }
    assert source_mark.imported_from(by_hand, KEY, SOURCE)
    assert source_mark.imported_from({"resourceType": "Patient"}, KEY, SOURCE)
    assert not source_mark.imported_from(source_mark.prepare(PATIENT, "https://other.example"), KEY, SOURCE)


def test_local_entries_stay_and_the_sources_former_ones_are_removed() -> None:
    """Identifiers, extensions, tags and security labels added in Medplum are kept."""
    before = incoming().resource
    there = stored(before)
    local_meta = there.resource["meta"] | {
        "tag": [{"system": "l", "code": "t"}],
        "security": [{"code": "R"}],
        "profile": ["p", "mine"],
    }
    local = {
        "identifier": [*before["identifier"], {"system": "l", "value": "x"}],
        "extension": [{"url": "l", "valueCode": "x"}],
        "meta": local_meta,
    }
    now = upsert.merged(
        Found("m1", "v", there.resource | local), incoming(PATIENT | {"identifier": [{"value": "new"}]})
    )
    assert [each.get("value") for each in now["identifier"]] == ["new", "1", "x"]
    assert now["extension"] == local["extension"]
    assert now["meta"]["tag"] == [{"system": "l", "code": "t"}]
    assert now["meta"]["security"] == [{"code": "R"}]
    assert now["meta"]["profile"] == ["p"]


def test_a_reference_that_waits_is_tagged() -> None:
    """The repair removes the tag."""
    tagged = source_mark.tagged({"meta": {"tag": [{"code": "x"}]}}, frozenset({KEY}))
    assert source_mark.UNRESOLVED_TAG in tagged["meta"]["tag"]
    assert source_mark.tagged(tagged, frozenset()) == {"meta": {"tag": [{"code": "x"}]}}


def test_values_that_medplum_drops_or_rewrites_are_no_difference() -> None:
    """Empty values, and links into its storage."""
    sent = {"a": [], "b": "", "c": {"d": None}, "url": "Binary/abc", "e": [{}]}
    for place in ("m.example/storage", "storage.m.example/binary"):
        existing = {"url": f"https://{place}/abc/v1?Expires=1&Key-Pair-Id=k&Signature=x"}
        assert upsert.comparable(sent) == upsert.comparable(existing) | {}
    for other in ("https://m.example/x?y=1", "https://ehr.example/fhir/binary/abc?y=1"):
        assert upsert.comparable({"url": other})["url"] == other


def test_entries_of_a_batch() -> None:
    """POST, guarded POST, PUT with If-Match, conditional PUT; the query contains the identifier."""
    new = Write(Incoming(KEY, {"a": 1}), {"a": 1})
    assert write_entry(new).body == b'{"request":{"method":"POST","url":"Patient"},"resource":{"a":1}}'
    named = write_entry(new, urn="urn:uuid:1")
    assert orjson.loads(named.body)["fullUrl"] == "urn:uuid:1"
    guarded = write_entry(new, guarded=True)
    assert (guarded.creates, guarded.guarded) == (True, True)
    assert orjson.loads(guarded.body)["request"]["ifNoneExist"] == lookup_query("Patient", ["1"])
    old = Write(Incoming(KEY, {}), {"id": "m"}, "m", "3")
    entry = write_entry(old, guarded=True)
    assert (entry.creates, entry.guarded) == (False, False)
    assert orjson.loads(entry.body)["request"] == {"method": "PUT", "url": "Patient/m", "ifMatch": 'W/"3"'}
    conditional = orjson.loads(write_entry(old, conditional=True).body)
    assert conditional["request"] == {"method": "PUT", "url": f"Patient?{lookup_query('Patient', ['1'])}"}
    assert "id" not in conditional["resource"]
    binary = Write(Incoming(Key("Binary", "b"), {}), {})
    assert orjson.loads(write_entry(binary).body)["request"]["url"] == "Basic"


def test_batches_stay_small_and_never_hold_a_key_twice() -> None:
    """Split by bytes, by number and by key, in order; an entry that is too large gets its own batch."""
    entries = [Entry(Key("A", name), body) for name, body in (("1", b"x"), ("1", b"y"), ("2", b"z" * 500), ("3", b"w"))]
    made = list(batch_entries.batches(entries, max_bytes=200))
    assert [[each.body[:1] for each in batch] for batch in made] == [[b"x"], [b"y"], [b"z"], [b"w"]]
    assert [len(batch) for batch in batch_entries.batches(entries[2:], max_bytes=10_000, max_entries=1)] == [1, 1]
    assert list(batch_entries.batches([], max_bytes=1)) == []
    assert batch_entries.bundle(entries[:1]) == b'{"resourceType":"Bundle","type":"batch","entry":[x]}'


def test_a_basic_represents_a_binary() -> None:
    """A Basic with the identifier, the content's place and its digest."""
    given: Json = {"resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "eA=="}
    made = source_mark.prepare_binary(given, SOURCE, content_id="c", digest="d")
    assert made["resourceType"] == "Basic"
    assert "data" not in made
    found = Found("m", "1", made)
    assert upsert.content_of(found) == ("c", "d")
    assert upsert.target_id(Key("Binary", "b"), found) == "c"
    assert upsert.target_id(KEY, found) == "m"
    assert upsert.content_of(Found("m", "1", {})) == ("", "")


def test_digests_distinguish_bytes() -> None:
    """Equal bytes, equal digests."""
    assert source_mark.digest_of(b"a") == source_mark.digest_of(b"a") != source_mark.digest_of(b"b")


def test_entries_without_a_name_are_identified_by_their_whole_content() -> None:
    """An identifier without a value, and a non-object: the source's are removed with it, local ones stay."""
    odd = [{"type": {"text": "a"}}, "text"]
    there = stored(incoming(PATIENT | {"identifier": odd}).resource)
    mark = there.resource["identifier"][-1]
    local = there.resource | {"identifier": [*odd, {"type": {"text": "local"}}, mark]}
    now = upsert.merged(Found("m1", "v", local), incoming(PATIENT | {"identifier": []}))
    assert [each for each in now["identifier"] if "system" not in each] == [{"type": {"text": "local"}}]


def test_a_source_with_a_longer_address_is_another_one() -> None:
    """A base without the practice's id is the beginning of every practice's base."""
    of_practice = source_mark.prepare({"resourceType": "Patient", "id": "1"}, "https://source.example/fhir/practice")
    key = Key("Patient", "1")
    assert source_mark.imported_from(of_practice, key, "https://source.example/fhir/practice")
    assert not source_mark.imported_from(of_practice, key, "https://source.example/fhir")


def test_an_older_version_never_replaces_a_newer_one() -> None:
    """The source's own time stamp decides; if one is missing, the later arrival is written."""
    newer = PATIENT | {"meta": {"lastUpdated": "2024-06-01T00:00:00+02:00"}, "active": False}
    found = stored(incoming(newer).resource)
    assert upsert.plan({KEY: found}, [incoming()]).updates == ()
    assert len(upsert.plan({KEY: found}, [incoming()]).unchanged) == 1
    for meta in ({}, {"lastUpdated": "2024-05-31T22:00:00Z"}, {"lastUpdated": "last week"}):
        assert len(upsert.plan({KEY: found}, [incoming(PATIENT | {"meta": meta})]).updates) == 1
