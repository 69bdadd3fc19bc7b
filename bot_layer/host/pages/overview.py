"""What the overview shows, gathered from the history, the inbox, the practices' syncs and the doctor's findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

import sqlalchemy as sa

from bot_layer.codes import advice
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox
from bot_layer.host.history import RUNS, Figures
from bot_layer.host.pages.values import PageSettings, Practice
from bot_layer.host.rules import standing
from bot_layer.host.rules.standing import Ended, Problem, Situation

DAYS: Final = 14


Days = Sequence[Counter[str]]  # the number of runs by state on each of the last days, today's last


@dataclass(frozen=True)
class BotRow:
    """One bot: its runs of the last two weeks, and their figures if there are any."""

    name: str
    about: str
    days: Days
    figures: Figures | None


@dataclass(frozen=True)
class HostRow:
    """A host of the database: ``silent`` if its last heartbeat is too long ago."""

    name: str
    beat: float
    is_this: bool
    silent: bool


@dataclass(frozen=True)
class Overview:
    """The whole page. ``today`` counts the runs of all bots by state; ``inbox`` is None for a host without one."""

    problems: Sequence[Problem]
    bots: Sequence[BotRow]
    today: Counter[str]
    inbox: Mapping[str, int] | None
    hosts: Sequence[HostRow]
    catch_up: float | None


def overview(
    settings: PageSettings, now: datetime, practices: Sequence[Practice], findings: Sequence[Finding], sync_error: str
) -> Overview:
    """The overview at an instant; ``now`` is in the zone whose days are counted."""
    inbox = settings.inbox if settings.inbox is not None and settings.inbox.ready else None
    hosts, catch_up = _hosts(settings, inbox, now.timestamp()), _catch_up(settings)
    dead = Counter[str]()
    for (_, code), number in (inbox.dead_letters() if inbox else {}).items():
        dead[code] += number
    today = settings.history.codes(day_starts(now)[-1].timestamp())
    problems = standing.problems(
        Situation(
            inbox_problem=settings.inbox.problem if settings.inbox is not None else "",
            dead=[Ended(code, number, advice("dead", code)) for code, number in dead.most_common()],
            failed=_ended(today, "failed"),
            refused=_ended(today, "refused"),
            silent_hosts=[host.name for host in hosts if host.silent],
            catch_up_age=None if catch_up is None else now.timestamp() - catch_up,
            syncs_failed=_troubles(practices, "failed"),
            syncs_partial=_troubles(practices, "refused"),
            sync_error=sync_error,
            checks_failed={each.name: each.text for each in findings if each.status == "failed"},
            checks_warned={each.name: each.text for each in findings if each.status == "warning"},
        )
    )
    counts = (inbox.counts() if inbox else {}) if settings.inbox else None
    rows = _bot_rows(settings, now)
    return Overview(problems, rows, sum((row.days[-1] for row in rows), Counter()), counts, hosts, catch_up)


def _bot_rows(settings: PageSettings, now: datetime) -> list[BotRow]:
    """Each bot of this host, and every other bot that has runs."""
    starts, served = day_starts(now), settings.bots.handlers
    counts = settings.history.days(RUNS, [start.timestamp() for start in starts])
    figures = settings.history.figures(starts[0].timestamp())
    return [
        BotRow(
            name,
            served[name].bot.about if name in served else "Not served by this host.",
            counts.get(name) or [Counter() for _ in starts],
            figures.get(name),
        )
        for name in [*served, *sorted(counts.keys() - served.keys())]
    ]


def _hosts(settings: PageSettings, inbox: Inbox | None, now: float) -> list[HostRow]:
    if inbox is None:
        return []
    this, limit = inbox.settings.host_id, inbox.settings.takeover_seconds
    return [
        HostRow(host.id, host.beat, is_this=host.id == this, silent=host.id != this and now - host.beat > limit)
        for host in settings.history.hosts()
    ]


def _catch_up(settings: PageSettings) -> float | None:
    marks = settings.marks()
    with suppress(sa.exc.SQLAlchemyError):  # the inbox's own line reports that its database does not answer
        latest = marks.latest() if marks is not None else None
        return None if latest is None else latest.timestamp()
    return None


def _ended(counts: Counter[tuple[str, str]], state: str) -> list[Ended]:
    """The runs that ended in a state, by code, the most frequent first."""
    return [Ended(code, number, advice(state, code)) for (each, code), number in counts.most_common() if each == state]


def _troubles(practices: Sequence[Practice], state: str) -> dict[str, str]:
    """The problem of each practice in that state."""
    return {each.name: " ".join(each.problems) or "See what is wrong." for each in practices if each.state == state}


def day_starts(now: datetime) -> list[datetime]:
    """The midnights of the last two weeks in the zone of ``now``, today's last."""
    today = now.date()
    return [datetime.combine(today - timedelta(days=back), time(), now.tzinfo) for back in reversed(range(DAYS))]
