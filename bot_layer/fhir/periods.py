"""FHIR dates as intervals of time, and whether an element is in force at a moment.

https://hl7.org/fhir/R4/datatypes.html#Period: a start or an end that is a date includes the whole day, month or year.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from bot_layer.fhir.json import Json, objects

Interval = tuple[datetime, datetime]

_BOUNDS: Final = ("start", "end")
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_DAY: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
# A search may leave the seconds out.
_TO_THE_MINUTE: Final = re.compile(r"[^T]+T\d{2}:\d{2}(?:Z|[+ -]\d{2}:\d{2})?")


def interval(text: str) -> Interval | None:
    """The interval that a FHIR date, dateTime or instant covers, end excluded; None for other text. No zone is UTC."""
    match = _DAY.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            if "." in text:
                return moment, moment + timedelta(microseconds=1)
            return moment, moment + (timedelta(minutes=1) if _TO_THE_MINUTE.fullmatch(text) else timedelta(seconds=1))
        year, month, day = (int(part) if part else None for part in match.groups())
        assert year is not None
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    following = (year, month + 1) if month and month < 12 else (year + 1, 1)
    try:
        return start, start + timedelta(days=1) if day else datetime(*following, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        return start, _LAST  # 9999 means no end


def period_interval(period: object) -> Interval | None:
    """The interval of a Period; a missing bound is open. None for a period without a readable bound."""
    given = period if isinstance(period, dict) else {}
    start, end = (interval(text) if isinstance(text := given.get(name), str) else None for name in _BOUNDS)
    if start is None and end is None:
        return None
    return start[0] if start else _FIRST, end[1] if end else _LAST


def holds(period: object, now: datetime, margin: timedelta = timedelta()) -> bool | None:
    """Whether a Period holds a time; a missing bound is open. None where the Period or a bound of it cannot be read.

    A bound that is a date has no time zone: it is read in UTC, and for ``margin`` before and after.
    """
    if period is None:
        return True
    given = period if isinstance(period, dict) else {"start": "no Period"}
    bounds = {name: (text, interval(text)) for name in _BOUNDS if (text := str(given.get(name) or ""))}
    if any(read is None for _, read in bounds.values()):
        return None
    around = {name: timedelta() if "T" in text else margin for name, (text, _) in bounds.items()}
    start, end = (bounds[name][1] if name in bounds else None for name in _BOUNDS)
    return (start is None or start[0] <= now + around["start"]) and (end is None or now - around["end"] < end[1])


def in_force(element: Json, now: datetime) -> bool:
    """Whether an identifier, name, address, contact point or role is in force: not old, begun and not over.

    A bound that is no date is ignored.
    """
    if element.get("use") == "old":
        return False
    period = element.get("period")
    given = period if isinstance(period, dict) else {}
    readable = {name: text for name in _BOUNDS if isinstance(text := given.get(name), str) and interval(text)}
    return holds(readable, now) is not False


def current(elements: object, now: datetime) -> list[Json]:
    """The elements of a list that are in force; none of anything else."""
    return [each for each in objects(elements) if in_force(each, now)]
