"""Dates as FHIR compares them: each is a span from a first to a last instant (https://hl7.org/fhir/R4/search.html#date)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

FIRST, LAST = "0000", "9999"
_SHAPE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?")

_LENGTHS = {
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "day": timedelta(days=1),
}


def span(value: Any) -> tuple[str, str] | None:
    """(first, last) instant of a date, dateTime, instant, Period or Timing, or None where there is none."""
    if isinstance(value, str):
        return _span(value)
    if not isinstance(value, dict):
        return None
    if "event" in value:
        spans = [s for event in value["event"] if (s := _span(event)) is not None]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None
    start, end = _span(value.get("start", "")), _span(value.get("end", ""))
    if start is None and end is None:
        return None
    return (start[0] if start else FIRST, end[1] if end else LAST)


@lru_cache(maxsize=4096)
def _span(text: str) -> tuple[str, str] | None:
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    parts = {"millisecond": fraction, "second": second, "minute": minute, "day": day, "month": month}
    precision = next((name for name, part in parts.items() if part), "year")
    try:
        first = datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}"
        ).replace(tzinfo=UTC)
    except ValueError:
        return None
    if fraction:
        first += timedelta(seconds=float(fraction))
    if zone and zone != "Z":
        shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        first = first - shift if zone[0] == "+" else first + shift
    return _write(first), _write(_after(first, precision) - timedelta(milliseconds=1))


def _after(first: datetime, precision: str) -> datetime:
    """The first instant that does not belong to the date any more."""
    if precision == "year":
        return first.replace(year=first.year + 1)
    if precision == "month":
        return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first + _LENGTHS[precision]


def _write(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
