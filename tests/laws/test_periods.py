"""Laws of periods: the expected answer is computed with calendar days, not with the code under test."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.periods import in_force

pytestmark = pytest.mark.no_cover  # tests/fhir shows that each way is taken

DAYS = st.dates(date(1990, 1, 1), date(2090, 12, 31))
PRECISIONS = st.sampled_from(["year", "month", "day"])
TIMES = st.times()


def written(day: date, precision: str) -> str:
    return {"year": f"{day:%Y}", "month": f"{day:%Y-%m}", "day": day.isoformat()}[precision]


def first_day(day: date, precision: str) -> date:
    return {"year": day.replace(month=1, day=1), "month": day.replace(day=1), "day": day}[precision]


def last_day(day: date, precision: str) -> date:
    of_month = day.replace(day=calendar.monthrange(day.year, day.month)[1])
    return {"year": day.replace(month=12, day=31), "month": of_month, "day": day}[precision]


@given(st.none() | DAYS, st.none() | DAYS, st.tuples(PRECISIONS, PRECISIONS), DAYS, TIMES)
def test_an_element_is_in_force_from_its_first_to_its_last_day(
    start: date | None, end: date | None, precisions: tuple[str, str], today: date, clock: time
) -> None:
    """Both included, to the year, the month or the day that is written; an open bound has none."""
    first, last = precisions
    period = {
        **({"start": written(start, first)} if start else {}),
        **({"end": written(end, last)} if end else {}),
    }
    expected = (start is None or first_day(start, first) <= today) and (end is None or today <= last_day(end, last))
    now = datetime.combine(today, clock, UTC)
    assert in_force({"period": period}, now) is expected
    assert in_force({"period": period, "use": "old"}, now) is False


@given(DAYS, st.integers(-40, 40))
def test_the_neighborhood_of_a_bound(bound: date, distance: int) -> None:
    """Days around an end and a start, where an off-by-one error would hide."""
    now = datetime.combine(bound + timedelta(days=distance), time(12), UTC)
    assert in_force({"period": {"end": bound.isoformat()}}, now) is (distance <= 0)
    assert in_force({"period": {"start": bound.isoformat()}}, now) is (distance >= 0)
