"""Dates as a server compares them: by the instant at which they begin.

A server without the feature ``range-search`` keeps one instant of each date, dateTime or Period (its start, else its
end), and compares that with one instant of the condition. https://hl7.org/fhir/R4/search.html#date says more.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

_YEAR, _MONTH, _DAY = r"(?!0000)\d{4}", r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_HOUR, _ZONE = r"([01]\d|2[0-3])", r"(Z|[+-](((0\d|1[0-3]):[0-5]\d|14:00))?)?"
_SECONDS, _FRACTION = r"([0-5]\d|60)", r"(\.\d{1,9})?"
_SEARCHED = rf"{_YEAR}(-{_MONTH}(-{_DAY}(T{_HOUR}(:[0-5]\d:{_SECONDS}{_FRACTION})?)?)?{_ZONE})?"
_COMPARED = rf"{_YEAR}-{_MONTH}-{_DAY}([T ]{_HOUR}(:[0-5]\d(:{_SECONDS})?{_FRACTION})?)?{_ZONE}"
_DATE_TIME, _POINT = re.compile(_SEARCHED, re.ASCII), re.compile(_COMPARED, re.ASCII)
_SHAPE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(\.\d+)?)?)?)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)


def is_date_time(text: str) -> bool:
    """Whether a search takes the text for a date."""
    return _DATE_TIME.fullmatch(text) is not None


def point(text: str) -> str | None:
    """The instant that a condition names, or None: it must be a day at least."""
    return _begin(text) if _POINT.fullmatch(text) else None


def start_of(value: Any) -> str | None:
    """The instant by which a date, dateTime, instant or Period is found, or None where there is none."""
    if isinstance(value, str):
        return _begin(value)
    if not isinstance(value, dict):
        return None
    if isinstance(start := value.get("start"), str):
        return _begin(start)
    return _last(value["end"]) if isinstance(value.get("end"), str) else None


@lru_cache(maxsize=4096)
def _begin(text: str) -> str | None:
    found = _moment(text)
    return _write(found) if found else None


def _last(text: str) -> str | None:
    """The last instant of a date: how an end that is all of a Period is kept."""
    found = _moment(text)
    if found is None:
        return None
    if len(text) == 4:
        found = found.replace(month=12, day=31)
    if len(text) <= 10:
        found += timedelta(days=1) - timedelta(milliseconds=1)
    return _write(found)


def _moment(text: str) -> datetime | None:
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        first = datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}"
        ).replace(tzinfo=UTC)
    except ValueError:
        return None
    if fraction:
        first += timedelta(milliseconds=int(float(fraction) * 1000))
    if zone and zone != "Z":
        shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        first = first - shift if zone[0] == "+" else first + shift
    return first


def _write(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
