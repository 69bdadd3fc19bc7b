"""The text of each alert, and which alerts have ended. An alert's key is ``<kind>:<what>``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

HOLD_SECONDS: Final = 150.0  # an alert that no host has seen for this long has ended


def dead_letters(counts: Mapping[tuple[str, str], int], advice: Callable[[str], str]) -> dict[str, str]:
    """The alerts for dead letters, counted by bot and code; ``advice`` says what to do about a code."""
    found = {}
    for (bot, code), count in counts.items():
        look = f"Look: medplum-bots runs list --bot {bot} --state dead"
        text = (f"{bot}: {_many(count, 'dead letter')} ({code}).", advice(code), look)
        found[f"{bot}:{code}"] = " ".join(filter(None, text))
    return found


def refusals(counts: Mapping[str, int], least: int) -> dict[str, str]:
    """The alerts for the refusals of the last hour, counted by bot (``-``: before any bot), from ``least`` on."""
    found = {}
    for bot, count in counts.items():
        if count >= least:
            calls = "Calls that reached no bot" if bot == "-" else f"Calls of {bot}"
            found[bot] = f"{calls}: {count} were refused within an hour. Look: the host's log"
    return found


def syncs(problems: Mapping[str, str]) -> dict[str, str]:
    """The alerts for the problems of practices' syncs, by name."""
    return {
        name: f"The sync{f' of {name}' if name else ''} is not healthy: {problem}" for name, problem in problems.items()
    }


def silent_hosts(count: int) -> dict[str, str]:
    """The alert for hosts that stopped in the last hour."""
    text = f"{_many(count, 'host')} stopped without signing off within an hour; others took over the runs"
    return {"": text} if count else {}


def missed_events(count: int) -> dict[str, str]:
    """The alert for what catch-up found in the last hour."""
    text = f"Catch-up found {_many(count, 'missed event')} within an hour; they are queued"
    return {"": text} if count else {}


def ended(known: Mapping[str, float], current: Collection[str], unread: Collection[str], *, now: float) -> set[str]:
    """The keys of the alerts that have ended.

    ``known`` has the time at which a host last saw each open one. An alert of an ``unread`` kind, whose state could not
    be read, does not end.
    """
    return {
        key
        for key, seen in known.items()
        if key not in current and key.partition(":")[0] not in unread and now - seen > HOLD_SECONDS
    }


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
