"""Which alerts exist, and which of them begin, continue or end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

HOLD_SECONDS: Final = 150.0  # an alert that no host has seen for this long has ended


@dataclass(frozen=True)
class State:
    """The state that a host observes. None means that a value could not be read: its alerts neither begin nor end.

    ``dead`` counts dead letters by bot and code; ``refused`` counts the refusals of the last hour by bot (``-``: before
    any bot); ``syncs`` gives the problem of each practice's sync; ``silent`` and ``missed`` count the hosts that
    stopped and the events that catch-up found in the last hour.
    """

    dead: Mapping[tuple[str, str], int] | None = None
    refused: Mapping[str, int] | None = None
    syncs: Mapping[str, str] | None = None
    silent: int = 0
    missed: int = 0


@dataclass(frozen=True)
class Changes:
    """The keys of alerts that begin, continue and end."""

    begun: frozenset[str] = field(default_factory=frozenset)
    continuing: frozenset[str] = field(default_factory=frozenset)
    ended: frozenset[str] = field(default_factory=frozenset)


def alerts(state: State, *, refusals: int, advice: Callable[[str], str] = lambda _code: "") -> dict[str, str]:
    """The text of each alert by its key, ``<kind>:<what>``.

    ``refusals`` is the hourly threshold. ``advice`` says what to do about the code of a dead letter.
    """
    found = {}
    for (bot, code), count in (state.dead or {}).items():
        look = f"medplum-bots runs list --bot {bot} --state dead"
        found[f"dead-letters:{bot}:{code}"] = " ".join(
            filter(None, (f"{bot}: {_many(count, 'dead letter')} ({code}).", advice(code), f"Look: {look}"))
        )
    for bot, count in (state.refused or {}).items():
        if count >= refusals:
            whose = "Calls that reached no bot" if bot == "-" else f"Calls of {bot}"
            found[f"refusals:{bot}"] = f"{whose}: {count} were refused within an hour. Look: the host's log"
    for name, problem in (state.syncs or {}).items():
        found[f"sync:{name}"] = f"The sync{f' of {name}' if name else ''} is not healthy: {problem}"
    if state.silent:
        found["silent-host:"] = (
            f"{_many(state.silent, 'host')} stopped without signing off within an hour; others took over the runs"
        )
    if state.missed:
        found["catch-up:"] = f"Catch-up found {_many(state.missed, 'missed event')} within an hour; they are queued"
    return found


def changes(known: Mapping[str, float], current: Mapping[str, str], state: State, *, now: float) -> Changes:
    """How the alerts changed; ``known`` has the time at which a host last saw each one."""
    unread = {
        kind
        for kind, value in (("dead-letters", state.dead), ("refusals", state.refused), ("sync", state.syncs))
        if value is None
    }
    over = {
        key
        for key, seen in known.items()
        if key not in current and key.partition(":")[0] not in unread and now - seen > HOLD_SECONDS
    }
    return Changes(frozenset(current.keys() - known.keys()), frozenset(current.keys() & known.keys()), frozenset(over))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
