"""When an identifier, a name or an address is in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bot_layer.fhir.json import Json
from bot_layer.fhir.periods import holds, in_force, interval

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ({}, True),
        (None, True),
        ("2020", True),
        ({"end": "2024"}, True),
        ({"end": "2024-02"}, True),
        ({"end": "2024-02-29"}, True),
        ({"end": "2024-02-28"}, False),
        ({"end": "2023"}, False),
        ({"start": "2024-02-29"}, True),
        ({"start": "2024-03"}, False),
        ({"start": "2024-02-29T12:00:01Z"}, False),
        ({"end": "2024-02-29T13:00:00+02:00"}, False),
        ({"end": "2024-02-29T13:00:00-02:00"}, True),
        ({"start": "2023", "end": "2025"}, True),
        ({"start": "2025", "end": "2026"}, False),
        ({"end": "soon"}, True),
        ({"end": 2020}, True),
    ],
)
def test_a_period_includes_its_bounds(period: object, expected: bool) -> None:
    """A bound that is a date includes the whole day, month or year; a missing or unreadable bound is open."""
    element: Json = {"value": "1", "period": period}
    assert in_force(element, NOW) is expected
    assert in_force({**element, "use": "old"}, NOW) is False


def test_text_that_is_not_a_date_has_no_interval() -> None:
    """A day that the calendar lacks, and a year beyond it."""
    assert interval("2023-02-29") is None
    assert interval("10000") is None


@pytest.mark.parametrize("end", ["9999", "9999-12", "9999-12-31"])
def test_the_last_day_of_the_calendar_has_no_end(end: str) -> None:
    """Systems that require a value write it for an open end."""
    found = interval(end)
    assert found is not None
    assert found[1] == datetime.max.replace(tzinfo=UTC)
    assert interval("x") is None


@pytest.mark.parametrize(
    ("period", "hours", "expected"),
    [
        # Half a day on either side of a date; a time is exact.
        ({"start": "2024-03-01"}, 12, True),
        ({"start": "2024-03-01"}, 11, False),
        ({"end": "2024-02-28"}, 13, True),
        ({"end": "2024-02-28"}, 12, False),
        ({"start": "2024-02-29T12:00:01Z"}, 12, False),
        ({"end": "2024-02-29T11:59:59Z"}, 12, False),
    ],
)
def test_a_date_has_a_margin_if_requested(period: Json, hours: int, expected: bool) -> None:
    """A date starts earlier in the east of the world, and ends later in its west; NOW is noon."""
    assert holds(period, NOW, timedelta(hours=hours)) is expected


@pytest.mark.parametrize("period", ["2024", [], {"start": "soon"}, {"end": 2024.5}, {"start": "2024", "end": "x"}])
def test_a_period_that_cannot_be_read_says_so(period: object) -> None:
    assert holds(period, NOW) is None
