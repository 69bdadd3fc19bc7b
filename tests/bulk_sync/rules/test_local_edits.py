"""The list of edits that wait for a person's decision."""

from __future__ import annotations

from bot_layer.bulk_sync.rules.provenance import prepare
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import MOST_LISTED, EditList, LocalEdit
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, edit_of

SOURCE = "https://source.example/fhir"


def edit(number: int, *fields: str) -> LocalEdit:
    """An edit of a Patient."""
    return LocalEdit("Patient", str(number), fields or ("name",))


def test_only_the_names_of_fields_that_differ_are_listed() -> None:
    """Also a field that only one side has; what the server sets and local identifiers are no difference."""
    sent = {"resourceType": "Patient", "id": "p1", "birthDate": "1970-01-01", "active": True, "gender": "male"}
    mine = prepare(sent, SOURCE)
    local = {"system": "https://clinic.example", "value": "1"}
    there = {
        **mine,
        "id": "m1",
        "identifier": [*mine["identifier"], local],
        "birthDate": "1971-01-01",
        "name": [{"family": "Sample"}],
        "meta": {**mine["meta"], "versionId": "7"},
    }
    del there["gender"]
    found = edit_of(Incoming(Key("Patient", "p1"), mine), Found("m1", "7", there, edited=True))
    assert found == LocalEdit("Patient", "m1", ("birthDate", "gender", "name"))
    assert found.reference == "Patient/m1"


def test_a_settled_edit_leaves_the_list_and_a_repeated_one_is_listed_once() -> None:
    """By its reference; the newer names win."""
    listed = EditList((edit(1), edit(2)))
    after = listed.after([edit(2, "gender"), edit(3)], {"Patient/1", "Patient/9"})
    assert after == EditList((edit(2, "gender"), edit(3)))


def test_the_list_is_bounded_and_counts_the_rest() -> None:
    """Listed edits are still updated when the list is full; the next run starts a new count."""
    full = EditList().after((edit(number) for number in range(MOST_LISTED + 3)), frozenset())
    assert (len(full.listed), full.more) == (MOST_LISTED, 3)
    after = full.after([edit(0, "gender"), edit(MOST_LISTED + 3)], frozenset())
    assert (after.listed[0].fields, after.more) == (("gender",), 4)
