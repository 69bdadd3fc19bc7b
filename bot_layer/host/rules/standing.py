"""Whether everything works, and if not, what to do about it, in sentences for a clinic's administrator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_CATCH_UP_LATE: Final = 900.0
_MOST_LINES: Final = 5  # of one kind


@dataclass(frozen=True)
class Problem:
    """One line of the overview.

    ``level`` is bad (a person must act), warn, or note (nothing is wrong); ``link`` is a path of the status page.
    """

    level: str
    text: str
    advice: str
    link: str = ""


@dataclass(frozen=True)
class Ended:
    """How many runs ended with a code, and what to do about it."""

    code: str
    number: int
    advice: str


@dataclass(frozen=True)
class Situation:
    """The facts that the sentences are built from.

    ``inbox_problem`` says what to do if the inbox stores no events. ``dead`` are the dead letters, ``failed`` the calls
    that failed today, ``refused`` what was refused today. ``catch_up_age`` is seconds since the last search, if there
    was one. ``syncs_failed`` and ``syncs_partial`` give the problem of each practice, and ``sync_error`` says why this
    is unknown. ``checks_failed`` and ``checks_warned`` are the doctor's, by name.
    """

    inbox_problem: str = ""
    dead: Sequence[Ended] = ()
    failed: Sequence[Ended] = ()
    refused: Sequence[Ended] = ()
    silent_hosts: Sequence[str] = ()
    catch_up_age: float | None = None
    syncs_failed: Mapping[str, str] = field(default_factory=dict)
    syncs_partial: Mapping[str, str] = field(default_factory=dict)
    sync_error: str = ""
    checks_failed: Mapping[str, str] = field(default_factory=dict)
    checks_warned: Mapping[str, str] = field(default_factory=dict)


def problems(now: Situation) -> list[Problem]:
    """All problems, the worst first."""
    return sorted(_problems(now), key=lambda each: ("bad", "warn", "note").index(each.level))


def _problems(now: Situation) -> Iterator[Problem]:
    if now.inbox_problem:
        yield Problem("bad", "The host cannot store events; it runs them at once.", now.inbox_problem)
    yield from _runs("bad", "{} failed for good", "event", now.dead, "state=dead")
    yield from _named("bad", "The bulk sync of {} does not work.", now.syncs_failed, "sync")
    if now.sync_error:
        yield Problem("bad", "The state of the bulk sync is not known.", now.sync_error, "sync")
    yield from _named("bad", "Set-up: {}.", now.checks_failed, "setup")
    if now.silent_hosts:
        text = f"{_count(len(now.silent_hosts), 'host')} stopped: {', '.join(now.silent_hosts)}."
        yield Problem("warn", text, "Start it again. Another host has taken over its work.")
    if now.catch_up_age is not None and now.catch_up_age > _CATCH_UP_LATE:
        text = f"The host last searched for missed changes {now.catch_up_age / 60:.0f} minutes ago."
        yield Problem("warn", text, "Check that Medplum answers and that the host's login is right.", "setup")
    yield from _runs("warn", "{} failed today", "call", now.failed, "state=failed&since=today")
    yield from _named("warn", "The last bulk sync of {} was partial.", now.syncs_partial, "sync")
    yield from _named("warn", "Set-up: {}.", now.checks_warned, "setup")
    yield from _runs("note", "{} refused today", "run", now.refused, "state=refused&since=today")


def _runs(level: str, text: str, noun: str, found: Sequence[Ended], query: str) -> Iterator[Problem]:
    """A line for each of the most frequent codes."""
    for each in found[:_MOST_LINES]:
        what = f"{text.format(_count(each.number, noun))}{f': {each.code}' if each.code else ''}."
        yield Problem(level, what, each.advice, f"runs?{query}{f'&code={each.code}' if each.code else ''}")


def _named(level: str, text: str, found: Mapping[str, str], link: str) -> Iterator[Problem]:
    """A line for each; if there are too many, the last line says how many more there are."""
    for name, why in list(found.items())[:_MOST_LINES]:
        yield Problem(level, text.format(name), why, link)
    if (more := len(found) - _MOST_LINES) > 0:
        yield Problem(level, text.format(f"{more} more"), "See all.", link)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
