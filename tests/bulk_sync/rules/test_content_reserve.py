"""Room for content, and what names it."""

from __future__ import annotations

from bot_layer.bulk_sync.rules.content_reserve import RESERVE_SYSTEM, ids_named, reserve_entries, reserved_ids

SOURCE = "https://source.example/fhir"
URNS = ["urn:uuid:11111111-1111-4111-8111-111111111111", "urn:uuid:22222222-2222-4222-8222-222222222222"]
ID = "33333333-3333-4333-8333-333333333333"


def test_the_basic_comes_before_what_it_names() -> None:
    """The entries of a batch run in their order: a Binary that is there is named already."""
    basic, *binaries = reserve_entries("n", URNS, SOURCE)
    assert basic["request"] == {"method": "POST", "url": "Basic"}
    assert basic["resource"]["identifier"] == [{"system": RESERVE_SYSTEM, "value": "n"}]
    assert [each["fullUrl"] for each in binaries] == URNS == reserved_ids(basic["resource"], SOURCE)


def test_what_another_source_reserved_is_not_ours() -> None:
    """Nor is a Basic that stands for something else."""
    (basic, *_) = reserve_entries("n", URNS, SOURCE)
    assert reserved_ids(basic["resource"], "https://other.example/fhir") == []
    assert reserved_ids({"resourceType": "Basic"}, SOURCE) == []


def test_an_id_is_named_by_a_reference_or_a_link_to_the_storage() -> None:
    """Wherever it stands."""
    link = f"https://medplum.example/storage/{ID}/44444444-4444-4444-8444-444444444444?Expires=1"
    assert ID in ids_named([{"content": [{"attachment": {"url": link}}]}])
    assert ids_named([{"a": [{"reference": f"Binary/{ID}"}]}, {"b": "Binary/1"}]) == {ID}
