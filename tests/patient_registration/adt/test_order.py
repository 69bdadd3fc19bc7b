"""Rules of late messages: what a stamp says, which of two is older, and what is stored of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bot_layer.patient_registration.adt import order as adt_order
from bot_layer.patient_registration.adt.order import Stamp, is_late, stamped
from tests.people import patient

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
EHR = "EHR  2|NORTH"


@pytest.mark.parametrize(
    ("kept", "comes", "late"),
    [
        ("20261122093000", "20261122092959", True),
        ("20261122093000", "20261122093000", False),
        ("20261122093000", "20261122093001", False),
        ("202611220930", "2026112208", True),
        ("20261122", "20261121", True),
        ("20261122093000.25", "20261122093000.2", True),
        ("20261122093000-0500", "20261122093000+0100", True),
        ("20261122093000+0100", "20261122093000-0500", False),
        # What may be the same time is not late.
        ("20261122093000", "20261122", False),
        ("20261122093000", "202611220930", False),
        # Nothing is known of a clock on a wall.
        ("20261122093000+0000", "20261121093000", False),
        ("20261122093000", "20261121093000+0000", False),
        ("", "20261121", False),
        ("20261122", "", False),
    ],
)
def test_only_what_is_surely_older_is_late(kept: str, comes: str, late: bool) -> None:
    """Stamps are compared at the precision that they have, with or without an offset."""
    assert is_late(stamped(patient(), Stamp(EHR, kept)), Stamp(EHR, comes)) is late


def test_the_time_of_the_event_takes_precedence_over_that_of_the_message() -> None:
    """A message that is sent again has an old event; if both have the same event, the later message wins."""
    existing = stamped(patient(), Stamp(EHR, "20261122", "20261122100000"))
    assert is_late(existing, Stamp(EHR, "20261121", "20261122110000"))
    assert not is_late(existing, Stamp(EHR, "20261123", "20261122090000"))
    assert is_late(existing, Stamp(EHR, "20261122", "20261122090000"))
    assert is_late(existing, Stamp(EHR, "", "20261122090000"))


def test_each_sender_has_a_clock_of_its_own() -> None:
    """The last stamp of each is kept beside other extensions; one without a time, or the same one, changes nothing."""
    other = {"url": "urn:x", "valueString": "y"}
    existing = stamped(patient(extension=[other]), Stamp(EHR, "20261122", "20261122100000"))
    both = stamped(existing, Stamp("LAB|EAST", "20261120"))
    assert not is_late(existing, Stamp("LAB|EAST", "20261120"))
    assert is_late(both, Stamp(EHR, "20261121"))
    assert stamped(both, Stamp(EHR, "20261122", "20261122100000")) == both
    assert stamped(both, Stamp(EHR)) == both
    later = stamped(both, Stamp(EHR, "20261123"))["extension"]
    assert [each.get("extension", [None])[0] for each in later] == [
        None,
        {"url": "sender", "valueString": "LAB|EAST"},
        {"url": "sender", "valueString": EHR},
    ]


@pytest.mark.parametrize("text", ["2026", "2026-11-22", "20261322", "2026112224", "99991231", "20261124", "soon", ""])
def test_text_that_is_not_a_time_or_is_in_the_future_is_not_a_time_stamp(text: str) -> None:
    """A year that was mistyped would make all that follows late."""
    assert adt_order.stamp(EHR, text, "20261122093000", NOW) == Stamp(EHR, "", "20261122093000")
    assert adt_order.stamp(EHR, "20261123", text, NOW) == Stamp(EHR, "20261123")
    assert adt_order.stamp(EHR, "20620101", "").recorded
