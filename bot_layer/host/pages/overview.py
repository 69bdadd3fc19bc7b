"""What the overview shows, gathered from the history, the inbox and the providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from bot_layer.bot.collection import Collection
from bot_layer.codes import advice
from bot_layer.findings import Finding
from bot_layer.host.history import FAILED, RUNS, Figures, History
from bot_layer.host.pages.values import Practice
from bot_layer.host.rules import standing
from bot_layer.host.rules.standing import Ended, Problem, Situation

if TYPE_CHECKING:
    from bot_layer.host.durable import Inbox
    from bot_layer.host.marks import Marks

DAYS: Final = 14


@dataclass(frozen=True)
class Bar:
    """One day of a chart: heights in percent of the highest day, from the bottom."""

    day: datetime
    done: int
    refused: int
    failed: int
    highest: int

    @property
    def total(self) -> int:
        """The runs of the day."""
        return self.done + self.refused + self.failed

    def height(self, number: int) -> float:
        """The height of a part of the bar, from 0 to 100; a nonzero part is always visible."""
        return max(100 * number / self.highest, 4.0) if number else 0.0


@dataclass(frozen=True)
class BotRow:
    """One bot: its runs of today and of the last two weeks."""

    name: str
    about: str
    days: tuple[Bar, ...]
    figures: Figures | None

    @property
    def today(self) -> Bar:
        """The runs of today."""
        return self.days[-1]


@dataclass(frozen=True)
class HostRow:
    """A host of the database: ``silent`` if its last heartbeat is too long ago."""

    name: str
    beat: float
    is_this: bool
    silent: bool


@dataclass(frozen=True)
class Overview:
    """The whole page."""

    problems: Sequence[Problem]
    bots: Sequence[BotRow]
    inbox: Mapping[str, int] | None
    hosts: Sequence[HostRow]
    catch_up: float | None

    @property
    def level(self) -> str:
        """``ok``, ``warn`` or ``bad``."""
        worst = self.problems[0].level if self.problems else "note"
        return "ok" if worst == "note" else worst

    @property
    def today(self) -> Mapping[str, int]:
        """The number of today's runs by state, over all bots."""
        days = [row.today for row in self.bots]
        return {name: sum(getattr(day, name) for day in days) for name in ("total", "done", "refused", "failed")}


@dataclass(frozen=True)
class Sources:
    """The data sources of the overview. ``marks`` say how far this host has searched for missed changes, if it does."""

    bots: Collection
    history: History
    inbox: Inbox | None = field(default=None, repr=False)
    marks: Callable[[], Marks] | None = field(default=None, repr=False)

    def overview(
        self, now: datetime, practices: Sequence[Practice], findings: Sequence[Finding], *, sync_error: str = ""
    ) -> Overview:
        """The overview at an instant; ``now`` is in the zone whose days are counted."""
        usable = self.inbox if self.inbox is not None and self.inbox.ready else None
        rows, hosts, catch_up = self.bot_rows(now), self._hosts(now), self._catch_up()
        dead = Counter[str]()
        for (_, code), number in (usable.dead_letters() if usable else {}).items():
            dead[code] += number
        today = self.history.codes(day_starts(now)[-1].timestamp())
        problems = standing.problems(
            Situation(
                inbox_problem=self.inbox.problem if self.inbox is not None else "",
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
        counts = dict(usable.counts()) if usable else {}
        return Overview(problems, rows, counts if self.inbox else None, hosts, catch_up)

    def bot_rows(self, now: datetime) -> list[BotRow]:
        """Each bot of this host, and every other bot that has runs."""
        starts = day_starts(now)
        counts = self.history.days(RUNS, [start.timestamp() for start in starts])
        figures = self.history.figures(starts[0].timestamp())
        names = list(self.bots.handlers) + sorted(counts.keys() - self.bots.handlers.keys())
        return [
            BotRow(
                name,
                self._about(name),
                bars(starts, counts.get(name) or [Counter() for _ in starts]),
                figures.get(name),
            )
            for name in names
        ]

    def _about(self, name: str) -> str:
        handler = self.bots.handlers.get(name)
        return handler.bot.about if handler is not None else "Not served by this host."

    def _hosts(self, now: datetime) -> list[HostRow]:
        if self.inbox is None or not self.inbox.ready:
            return []
        settings, instant = self.inbox.settings, now.timestamp()
        return [
            HostRow(
                host.id,
                host.beat,
                host.id == settings.host_id,
                host.id != settings.host_id and instant - host.beat > settings.takeover_seconds,
            )
            for host in self.history.hosts()
        ]

    def _catch_up(self) -> float | None:
        with suppress(sa.exc.SQLAlchemyError):  # the inbox's own line reports that its database does not answer
            latest = self.marks().latest() if self.marks is not None else None
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


def bars(starts: Sequence[datetime], counts: Sequence[Counter[str]]) -> tuple[Bar, ...]:
    """A chart's bars."""
    highest = max((each.total() for each in counts), default=0) or 1
    return tuple(
        Bar(start, each["done"], each["refused"], sum(each[state] for state in FAILED), highest)
        for start, each in zip(starts, counts, strict=True)
    )
