"""The synthetic data: the same for the same seed, correct FHIR, and full of what breaks simple clients."""

from __future__ import annotations

import base64
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import ALL_TYPES, START, BigFile, Source, generate, stream_ndjson

pytestmark = pytest.mark.no_cover  # data is generated repeatedly

PRACTICE = generate(7, 12)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def local(source: Source, reference: str) -> tuple[str, str] | None:
    """Type and id, if the reference leads to this source."""
    match = re.fullmatch(r"([A-Z]\w+)/([^/]+)(/_history/1)?", reference.removeprefix(source.base + "/"))
    return (match[1], match[2]) if match else None


def edges(source: Source) -> set[tuple[str, str]]:
    """From type to type, by references."""
    return {
        (resource["resourceType"], target[0])
        for resource in source.resources()
        for reference in references(resource)
        if (target := local(source, reference))
    }


def test_the_same_seed_gives_the_same_data() -> None:
    """Twice the same, and another seed another practice."""
    same, other = generate(7, 12), generate(8, 12)
    assert list(same.resources()) == list(PRACTICE.resources())
    assert list(other.resources()) != list(PRACTICE.resources())


def test_every_type_is_generated() -> None:
    """All types that Practice Fusion exports, and those that resources refer to without being exportable."""
    assert {kind for kind in ALL_TYPES if PRACTICE.count(kind)} == set(ALL_TYPES)
    assert PRACTICE.count("Patient") == 12
    assert PRACTICE.count() == sum(1 for _ in PRACTICE.resources())


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_resources_are_valid_fhir(kind: str) -> None:
    """Each resource passes the models of FHIR R4B, which for these types are those of R4."""
    model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
    for resource in list(PRACTICE.resources(kind))[:20]:
        model.model_validate(resource)


def test_references_are_written_in_every_form() -> None:
    """Relative, versioned, absolute with the source's base, foreign, urn:, contained, and by identifier only."""
    every = [reference for resource in PRACTICE.resources() for reference in references(resource)]
    base = re.escape(PRACTICE.base)
    for pattern in (
        r"Patient/[^/]+",
        r"\w+/[^/]+/_history/1",
        base + r"/\w+/[^/]+",
        base + r"/\w+/[^/]+/_history/1",
        r"https://other-ehr\.example\.org/.+",
        r"urn:uuid:.+",
        r"#drug",
    ):
        assert any(re.fullmatch(pattern, reference) for reference in every), pattern
    logical = [info for order in PRACTICE.resources("ServiceRequest") for info in order["supportingInfo"]]
    assert any("reference" not in info for info in logical)


def test_every_local_reference_leads_somewhere() -> None:
    """Nothing of the source is missing in the source."""
    for resource in PRACTICE.resources():
        for reference in references(resource):
            target = local(PRACTICE, reference)
            assert target is None or PRACTICE.get(*target) is not None, reference


def test_references_are_circular() -> None:
    """Between types and inside one type."""
    found = edges(PRACTICE)
    for one, other in (
        ("Encounter", "Condition"),
        ("Observation", "Observation"),
        ("Procedure", "Procedure"),
        ("Patient", "Patient"),
        ("DocumentReference", "DocumentReference"),
        ("Condition", "Observation"),
        ("ServiceRequest", "DiagnosticReport"),
    ):
        assert (one, other) in found
    assert {("Condition", "Encounter"), ("DiagnosticReport", "ServiceRequest")} <= found


def test_identifiers_are_no_keys() -> None:
    """An order, its specimen, results and report share an accession number; Patient and Coverage a record number."""
    for value, kinds in (
        ("ACC-", {"ServiceRequest", "Specimen", "Observation", "DiagnosticReport"}),
        ("TE", {"Patient"}),
    ):
        shared = [
            (identifier["value"], resource["resourceType"])
            for resource in PRACTICE.resources()
            for identifier in resource.get("identifier", [])
            if identifier["value"].startswith(value)
        ]
        count = Counter(number for number, _ in shared)
        assert min(count.values()) >= 2
        assert kinds <= {kind for _, kind in shared}
    assert not any("identifier" in resource for resource in PRACTICE.resources("Provenance"))


def test_ids_are_unique_within_a_type_only() -> None:
    """An Encounter and its Condition have the same id."""
    assert set(PRACTICE.entries["Encounter"]) & set(PRACTICE.entries["Condition"])


def test_text_that_hurts() -> None:
    """Quotes, backslashes, control characters, a reference inside a string, letters beyond ASCII and beyond the BMP."""
    text = " ".join(note["text"] for plan in PRACTICE.resources("CarePlan") for note in plan["note"])
    for part in ('"it\'s fine"', "\\", "\t", '{"reference": "Patient/not-a-reference"}', "Ü", "👩", "\u2028"):
        assert part in text


def test_attachments_have_their_content() -> None:
    """Inline, or in a Binary of the size that the attachment states."""
    for document in PRACTICE.resources("DocumentReference"):
        attachment = document["content"][0]["attachment"]
        data = attachment.get("data")
        if data is None:
            binary = PRACTICE.get("Binary", attachment["url"].rpartition("/")[2])
            assert binary is not None
            data = binary["data"]
        assert len(base64.b64decode(data)) == attachment["size"]


def test_npis_have_the_right_last_digit() -> None:
    """Luhn over 80840 and the ten digits."""
    for practitioner in PRACTICE.resources("Practitioner"):
        digits = [int(digit) for digit in "80840" + practitioner["identifier"][0]["value"]]
        doubled = [digit * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
        assert sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


def test_notes_can_be_big() -> None:
    """note_bytes sets their size; a few are ten times as long."""
    sizes = [len(plan["note"][0]["text"]) for plan in generate(7, 60, note_bytes=5000).resources("CarePlan")]
    assert min(sizes) >= 5000
    assert max(sizes) >= 50_000


def test_groups_and_outsiders() -> None:
    """Patients in Groups of group_size; those outside are in none. A practice without patients has an empty Group."""
    source = generate(7, 5, outside=2, group_size=2)
    assert [len(members) for members in source.groups.values()] == [2, 2, 1]
    assert source.count("Patient") == 7
    assert list(generate(7, 0).groups.values()) == [{}]


def test_only_some_types() -> None:
    """References to the other types stay."""
    source = generate(7, 2, types=["Condition"])
    assert source.count() == source.count("Condition") == 4
    assert ("Condition", "Encounter") in edges(source)


@given(seed=st.integers(0, 1000), patients=st.integers(0, 3), data=st.data())
def test_changes_at_a_given_time(seed: int, patients: int, data: st.DataObject) -> None:
    """A change increments the version, sets lastUpdated and keeps the rest; delete and add do what they say."""
    source = generate(seed, patients, types=["Patient", "Organization"], note_bytes=10)
    kind, id_ = data.draw(st.sampled_from([(r["resourceType"], r["id"]) for r in source.resources()]))
    at = START + timedelta(days=data.draw(st.integers(1, 1000)))
    before = source.get(kind, id_)
    assert before is not None
    after = source.change(kind, id_, {"language": "de", "name": None}, at=at)
    assert source.get(kind, id_) == after
    assert after["meta"] == {"versionId": "2", "lastUpdated": at.isoformat(timespec="milliseconds")[:23] + "Z"}
    assert {k: v for k, v in after.items() if k not in {"meta", "language"}} == {
        k: v for k, v in before.items() if k not in {"meta", "name"}
    }
    again = source.change(kind, id_, lambda resource: {"language": resource["language"] + "-AT"}, at=at)
    assert (again["language"], again["meta"]["versionId"]) == ("de-AT", "3")
    source.delete(kind, id_, at=at)
    assert source.get(kind, id_) is None
    assert (kind, id_) in source.deletions
    source.add(before, at=at)
    assert (kind, id_) not in source.deletions
    assert source.add(before, at=at)["meta"]["versionId"] == "2"


def test_a_source_knows_whose_a_resource_is() -> None:
    """By subject, patient, beneficiary or a Provenance's target, in every form of reference; otherwise no patient's."""
    source = generate(7, 3)
    of = {entry.type: entry.patient for kind in source.entries for entry in source.entries[kind].values()}
    nobody = {"Organization", "Practitioner", "PractitionerRole", "Location", "Medication", "Binary"}
    assert {kind for kind, patient in of.items() if patient is None} == nobody
    lost: Json = {"resourceType": "Provenance", "id": "x", "target": [{"reference": "Patient/nobody"}, {}]}
    source.add(lost, at=START)
    assert source.entries["Provenance"]["x"].patient is None


def test_members_join_and_leave() -> None:
    """add_member keeps the first time; remove_member removes only the membership."""
    source = generate(7, 1, outside=1)
    outsider = next(id_ for id_ in source.entries["Patient"] if id_ not in source.groups[source.group_id])
    source.add_member(outsider, at=START)
    source.add_member(outsider, at=START + timedelta(days=1))
    assert source.groups[source.group_id][outsider] == START
    source.remove_member(outsider, group=source.group_id)
    assert list(source.groups[source.group_id]) != [outsider]
    assert source.get("Patient", outsider) is not None


def test_a_source_moves_to_its_server() -> None:
    """Absolute references follow the base, each time; nothing else changes."""
    source = generate(7, 3)
    old = [line for kind in source.entries for line in source.entries[kind].values()]
    source.rebase("http://one.example.org/fhir")
    source.rebase("http://two.example.org/fhir")
    new = [line for kind in source.entries for line in source.entries[kind].values()]
    assert [entry.line.replace(b"https://source.invalid/fhir/r4", b"http://two.example.org/fhir") for entry in old] == [
        entry.line for entry in new
    ]
    assert any(b"http://two.example.org/fhir/" in entry.line for entry in new)


@pytest.mark.parametrize("kind", ["Observation", "Patient", "Procedure"])
@given(start=st.integers(0, 1_000_000))
def test_big_files_can_be_read_from_anywhere(kind: str, start: int) -> None:
    """A read from an offset returns the rest of the file; the whole file has the stated size and count."""
    big = BigFile(kind, 1_000_000, patient="p")
    whole = b"".join(stream_ndjson(kind, 1_000_000, patient="p"))
    assert (len(whole), whole.count(b"\n")) == (big.size, big.count)
    assert b"".join(big.read(start)) == whole[start:]


def test_a_small_big_file_has_one_line() -> None:
    """Never empty, even when the line is longer than asked."""
    assert BigFile("Observation", 1, patient="p", line_bytes=10).count == 1
    assert Source().add_big("Observation", 1).count == 1
