"""The time stamps of a sync, which the next export sends as ``_since``.

https://hl7.org/fhir/uv/bulkdata/export.html#query-parameters
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

# https://hl7.org/fhir/R4/datatypes.html#instant
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
CLOCKS_DIFFER: Final = timedelta(minutes=5)  # the clocks of two machines may differ by this much
_AGREE: Final = timedelta(seconds=2)
_AHEAD: Final = 3600.0  # seconds: a stored stamp that is later than now by more than this was never a real one


def next_since(
    previous: Mapping[str, str], types: Iterable[str], transaction_time: str, *, since: str = ""
) -> dict[str, str]:
    """The time stamps after a run that processed every file of these types; none moves back or skips a gap.

    ``since`` is the start of the export: changes between an older time stamp and that instant are not in it.
    """
    moved = dict(previous)
    for each in types:
        before = instant(moved.get(each, ""))
        if transaction_time and instant(since) <= before <= instant(transaction_time):
            moved[each] = transaction_time
    return moved


def kickoff_moment(date: str, *, now: float) -> str:
    """The kick-off time of an export, as an instant never later than the actual time on the source's clock.

    ``date`` is the Date header of the answer, ``now`` the time of this machine before the request (seconds since 1970).
    The header has whole seconds, and some servers update it once a second: if both clocks agree within that precision,
    this machine's time is more exact.
    """
    here = datetime.fromtimestamp(now, UTC)
    there = http_date(date)
    agree = there is None or there <= here < there + _AGREE
    return _written(here if there is None or agree else min(there, here))


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def export_stamp(transaction_time: str, kicked_off: str) -> str:
    """The time stamp after an export: its transactionTime, but never later than its kick-off.

    Some sources state the end of the job, and changes made while it ran would never be exported. Empty if the
    transactionTime is invalid: then the time stamps stay.
    """
    stated = normal_instant(transaction_time)
    if not stated or not kicked_off:
        return stated
    return min(stated, kicked_off, key=instant)


def normal_instant(text: str) -> str:
    """An instant in the form that ``_since`` needs (date, time and time zone), or an empty text if it is not an
    instant."""
    if is_instant(text):
        return text
    try:
        normal = datetime.fromisoformat(text.strip().upper()).isoformat()
    except ValueError:
        return ""
    # A time without a zone may be hours off, and a date has no time: neither is an instant.
    return normal if is_instant(normal) else ""


def usable_stamps(stamps: Mapping[str, str], *, now: float) -> dict[str, str]:
    """The stored time stamps that an export can use: valid, and not in the future."""
    normal = {kind: normal_instant(stamp) for kind, stamp in stamps.items()}
    return {kind: stamp for kind, stamp in normal.items() if stamp and instant(stamp).timestamp() <= now + _AHEAD}


def is_instant(text: str) -> bool:
    """True for an instant in the form that ``_since`` needs: with seconds and time zone."""
    return _INSTANT.fullmatch(text) is not None and instant(text) != instant("")


def instant(text: str) -> datetime:
    """Parse a time stamp for comparison; an invalid one counts as the earliest time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def http_date(text: str) -> datetime | None:
    """The instant of an HTTP date (https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7), or None."""
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
