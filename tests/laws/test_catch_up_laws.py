"""Laws of catch-up: which spans of time and which versions a host may have missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from bot_layer.host.rules import catch_up as rules
from bot_layer.host.rules.catch_up import Span, Version

START = datetime(2026, 5, 4, tzinfo=UTC)
BOT = "Bot/b"
seconds = st.integers(0, 100)


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


@st.composite
def statuses(draw: st.DrawFn) -> list[tuple[int, str]]:
    """A Subscription's versions, oldest first: when each was written, and its status."""
    times = sorted(draw(st.lists(seconds, min_size=1, max_size=6, unique=True)))
    return [(time, draw(st.sampled_from(["active", "off", "error"]))) for time in times]


@given(statuses(), seconds, seconds)
def test_a_second_is_searched_exactly_if_the_subscription_was_active_then(
    versions: list[tuple[int, str]], first: int, last: int
) -> None:
    """For each second, the status is that of the newest version written by then."""
    history: list[Json] = [
        {"status": status, "meta": {"lastUpdated": at(time).isoformat()}} for time, status in reversed(versions)
    ]
    spans = rules.active_spans(history, Span(at(first), at(last)))
    for second in range(101):
        known = [status for time, status in versions if time <= second]
        wanted = first <= second < last and bool(known) and known[-1] == "active"
        assert any(span.start <= at(second) < span.end for span in spans) == wanted, second
    assert all(earlier.end < later.start for earlier, later in pairwise(spans))


writes = st.lists(st.tuples(seconds, st.sampled_from([BOT, "Practitioner/p"])), min_size=1, max_size=6)


@given(writes, seconds, seconds, st.sets(st.sampled_from(["create", "update"])), st.booleans())
def test_the_newest_reported_version_is_found(
    written: list[tuple[int, str]], first: int, last: int, interactions: set[str], is_whole: bool
) -> None:
    """Of the events that a Subscription would have sent in the span, it is the last one."""
    ordered = sorted(written, key=lambda each: each[0])
    history = [
        {"meta": {"versionId": str(number), "lastUpdated": at(time).isoformat(), "author": {"reference": author}}}
        for number, (time, author) in enumerate(ordered)
    ]
    events = [
        str(number)
        for number, (time, author) in enumerate(ordered)
        if first <= time < last
        and author != BOT
        and ("create" if number == 0 and is_whole else "update") in interactions
    ]
    found = rules.missed(
        rules.versions(history[::-1], is_whole=is_whole), Span(at(first), at(last)), frozenset(interactions), bot=BOT
    )
    assert found == (events[-1] if events else None)


@given(st.sets(st.sampled_from(["create", "update", "delete"])), st.sampled_from(["Patient", "Patient?active=true"]))
def test_only_the_subscriptions_of_the_same_criteria_cover_each_other(others: set[str], criteria: str) -> None:
    """If both are reported for the same criteria, creations need not be distinguished exactly from updates."""

    def subscription(interaction: str | None, of: str = "Patient") -> rules.Watched:
        extension: list[Any] = [{"url": rules.INTERACTION, "valueCode": interaction}] if interaction else []
        meta = {"lastUpdated": START.isoformat()}
        return rules.watched({"id": "s", "criteria": of, "extension": extension, "meta": meta})

    mine = subscription("create")
    found = [mine, *(subscription(each, criteria) for each in sorted(others))]
    assert rules.covers_changes(mine, found) == ("update" in others and criteria == "Patient")
    assert rules.covers_changes(subscription(None), [subscription(None)])


def test_a_version_outside_of_the_span_is_not_found() -> None:
    """The overlap never starts before the first start, and the next pass reads the end."""
    version = Version("1", "Practitioner/p", at(5), is_first=False)
    assert rules.missed([version], Span(at(6), at(9)), frozenset({"update"}), bot=BOT) is None
    assert rules.missed([version], Span(at(1), at(5)), frozenset({"update"}), bot=BOT) is None
