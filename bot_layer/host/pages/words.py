"""Formats numbers and times as text, and reads the values of a page's query."""

from __future__ import annotations

import re
from collections.abc import Container
from datetime import UTC, datetime, time, timedelta
from typing import Final

from bot_layer.fhir.references import is_id
from bot_layer.host import history

STATES: Final = {
    "waiting": "waiting",
    "running": "running",
    "done": "done",
    "refused": "refused",
    "failed": "failed",
    "dead": "failed for good",
    "retried": "run again",
    "cancelled": "cancelled",
}
TODAY: Final = "today"
SPANS: Final = {"1h": "last hour", TODAY: TODAY, "24h": "last 24 hours", "7d": "last 7 days", "14d": "last 14 days"}
_UNITS: Final = {"h": "hours", "d": "days"}
_DID: Final = {
    "again": "It is queued and runs again. This is the new run.",
    "cancelled": "The run is cancelled.",
    "start": "The bulk sync is queued. A host starts it within some seconds.",
    "cancel": "The bulk sync is cancelled.",
    "check": "The set-up is checked again.",
}


def did(what: str | None, number: str | None) -> str:
    """The result of an action."""
    if what == "all":
        return f"{int(number)} runs are queued again." if number and re.fullmatch("[0-9]{1,4}", number) else ""
    return _DID.get(what or "", "")


def known(text: str | None, values: Container[str]) -> str | None:
    """The text if it is one of the values."""
    return text if text and text in values else None


def code(text: str | None) -> str | None:
    """The text if it has the form of a code."""
    return history.word(text) or None


def page(text: str | None) -> int:
    """The number of a page, from 1."""
    return int(text) if text and re.fullmatch(r"[1-9][0-9]{0,2}", text) else 1


def since(span: str, now: datetime) -> datetime | None:
    """When a time span of the filter began."""
    if span == TODAY:
        return datetime.combine(now.date(), time(), now.tzinfo)
    return now - timedelta(**{_UNITS[span[-1]]: int(span[:-1])}) if span in SPANS else None


def resource_type(reference: str) -> str:
    """The type of a reference such as ``Practitioner/id``."""
    kind, _, resource_id = reference.partition("/")
    return kind if kind.isalpha() and is_id(resource_id) else ""


def took(ms: float | None) -> str:
    """A duration in milliseconds."""
    if ms is None:
        return "-"
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 60_000 else f"{ms / 60_000:.1f} min"


def ago(value: float | None, now: float) -> str:
    """How long ago an instant was."""
    if value is None:
        return "never"
    seconds = max(0.0, now - value)
    if seconds < 90:
        return f"{seconds:.0f} seconds ago"
    return f"{left(seconds)} ago"


def left(seconds: float | None) -> str:
    """A duration, roughly."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds < 60 else "a minute"


def height(runs: int, most: int) -> float:
    """The height of a part of a chart's bar, from 0 to 30; a nonzero part is always visible."""
    return 0.3 * max(100 * runs / most, 4.0) if runs else 0.0


def moment(value: datetime | float | None, now: datetime) -> str:
    """An instant in the time zone of ``now``, in a readable form."""
    if value is None:
        return "never"
    at = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value
    local = at.astimezone(now.tzinfo)
    days = (now.date() - local.date()).days
    day = {0: "today", 1: "yesterday", -1: "tomorrow"}.get(days, f"{local:%b} {local.day}")
    return f"{day} {local:%H:%M}"
