"""The time stamps of a sync: what the next export asks for with ``_since``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

# https://hl7.org/fhir/R4/datatypes.html#instant
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def next_since(
    previous: Mapping[str, str], types: Iterable[str], transaction_time: str, *, since: str = ""
) -> dict[str, str]:
    """The time stamps after a run that handled every file of these types; none moves back, or over a gap.

    ``since`` is where the export began: what changed between an older time stamp and that moment is not in it.
    """
    moved = dict(previous)
    for each in types:
        before = instant(moved.get(each, ""))
        if transaction_time and instant(since) <= before <= instant(transaction_time):
            moved[each] = transaction_time
    return moved


def is_instant(text: str) -> bool:
    """True for a moment as ``_since`` wants it: to the second, and with its time zone."""
    return _INSTANT.fullmatch(text) is not None and instant(text) != instant("")


def instant(text: str) -> datetime:
    """A time stamp as a moment that can be compared; what can't be read is the beginning of time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
