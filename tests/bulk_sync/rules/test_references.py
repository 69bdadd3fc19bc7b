"""References, kind by kind."""

from __future__ import annotations

from bot_layer.bulk_sync.rules.references import Key, detach, logical_targets, read_reference, repair, rewrite, targets
from bot_layer.fhir.json import Json

BASE = "https://source.example/fhir"
KNOWN = {Key("Patient", "1"): "m-1"}


def test_each_kind_of_reference_has_its_answer() -> None:
    """Relative, absolute in the base and versioned ones mean a resource of the source; the others do not."""
    assert read_reference("Patient/1", BASE) == Key("Patient", "1")
    assert read_reference(f"{BASE}/Patient/1", BASE) == Key("Patient", "1")
    assert read_reference("Patient/1/_history/4", BASE) == Key("Patient", "1")
    for other in ("#p", "urn:uuid:1", "https://else.example/fhir/Patient/1", "Patient?identifier=1", "Patient", ""):
        assert read_reference(other, BASE) is None


def test_a_missing_target_leaves_type_identifier_and_display() -> None:
    """The source's own values under these names return when the target arrives."""
    given: Json = {
        "resourceType": "Observation",
        "subject": {
            "reference": "Patient/2",
            "display": "shown",
            "type": "Patient",
            "identifier": {"value": "own"},
            "extension": [{"url": "x", "valueCode": "y"}],
        },
    }
    rewritten = rewrite(given, KNOWN, BASE)
    assert rewritten.unresolved == {Key("Patient", "2")}
    subject = rewritten.resource["subject"]
    assert subject["identifier"] == {
        "system": "https://practicefusion.com/fhir/patient-id",
        "value": "2",
        "extension": [{"url": "https://practicefusion.com/fhir/source-address", "valueUri": f"{BASE}/Patient/2"}],
    }
    assert subject["display"] == "shown"
    assert logical_targets(rewritten.resource, BASE) == {Key("Patient", "2")}
    assert repair(rewritten.resource, KNOWN, BASE) == rewritten.resource
    repaired = repair(rewritten.resource, {Key("Patient", "2"): "m-2"}, BASE)
    assert repaired["subject"] == given["subject"] | {"reference": "Patient/m-2"}


def test_a_plain_reference_is_restored_plainly() -> None:
    """Nothing of the detour stays."""
    rewritten = rewrite({"a": [{"reference": "Patient/2"}]}, {}, BASE).resource
    assert repair(rewritten, {Key("Patient", "2"): "m"}, BASE) == {"a": [{"reference": "Patient/m"}]}


def test_a_source_s_own_logical_reference_is_left_alone() -> None:
    """Only the sync's identifier systems are repaired."""
    for identifier in ({"system": "http://hl7.org/fhir/sid/us-npi", "value": "1"}, {"value": "1"}, {"system": None}):
        given: Json = {"a": {"type": "Practitioner", "identifier": identifier}}
        assert logical_targets(given, BASE) == frozenset()
        assert repair(given, {Key("Practitioner", "1"): "m"}, BASE) == given
    wrong: Json = {"a": {"type": "Patient", "identifier": {"system": "https://practicefusion.com/fhir/patient-id"}}}
    assert logical_targets(wrong, BASE) == frozenset()
    # An identifier of the sync under another type names nothing of that type.
    system = "https://practicefusion.com/fhir/practitioner-id"
    other: Json = {"a": {"type": "Patient", "identifier": {"system": system, "value": "1"}}}
    assert logical_targets(other, BASE) == frozenset()
    assert repair(other, {Key("Patient", "1"): "m"}, BASE) == other


def test_targets_are_found_at_any_depth() -> None:
    """Contained resources and lists in lists of objects included."""
    given: Json = {"contained": [{"x": [{"y": {"reference": "Patient/1"}}]}], "z": {"reference": "#a"}}
    assert targets(given, BASE) == {Key("Patient", "1")}


def test_a_reference_to_a_known_resource_points_into_medplum_and_others_stay() -> None:
    """In objects, lists and lists of lists."""
    given: Json = {"a": [[{"reference": f"{BASE}/Patient/1"}, 1, "Patient/1"]], "b": {"reference": "#c"}, "c": 2}
    assert rewrite(given, KNOWN, BASE).resource == {
        "a": [[{"reference": "Patient/m-1"}, 1, "Patient/1"]],
        "b": {"reference": "#c"},
        "c": 2,
    }


def test_a_logical_reference_of_another_source_is_left_alone() -> None:
    """Two practices may have the same ids: each repairs its own references only."""
    theirs = rewrite({"a": {"reference": "Patient/2"}}, {}, "https://other.example/fhir").resource
    assert logical_targets(theirs, BASE) == frozenset()
    assert repair(theirs, {Key("Patient", "2"): "m"}, BASE) == theirs


def test_a_resource_created_in_the_same_batch_is_referenced_by_its_urn() -> None:
    """Medplum resolves it within the batch."""
    urn = "urn:uuid:00000000-0000-4000-8000-000000000000"
    rewritten = rewrite({"a": {"reference": "Patient/2"}}, {Key("Patient", "2"): urn}, BASE)
    assert (rewritten.resource, rewritten.unresolved) == ({"a": {"reference": urn}}, frozenset())


def test_a_detached_reference_is_as_if_its_target_was_never_known() -> None:
    """Expected value: the source's resource, written while the target is missing."""
    sent = {
        "resourceType": "Observation",
        "subject": {"reference": "Patient/p1"},
        "hasMember": [
            {"reference": "Observation/o2", "display": "sample", "type": "Observation"},
            {"reference": "Observation/o3"},
        ],
    }
    known = {Key("Patient", "p1"): "m1", Key("Observation", "o2"): "m2", Key("Observation", "o3"): "m3"}
    removed = {"Observation/m2": Key("Observation", "o2")}
    never = {key: at for key, at in known.items() if key.id != "o2"}
    stored = rewrite(sent, known, "https://source.example/fhir").resource
    detached = detach(stored, removed, "https://source.example/fhir")
    assert detached == rewrite(sent, never, "https://source.example/fhir").resource
    assert detach(detached, removed, "https://source.example/fhir") == detached
    assert repair(detached, known, "https://source.example/fhir") == stored
