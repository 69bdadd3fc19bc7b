"""What the status page is given: the host's data, the state of each practice's sync, and the doctor's findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bot_layer.bot.collection import Collection
from bot_layer.findings import Finding
from bot_layer.host.durable import Inbox
from bot_layer.host.history import History
from bot_layer.host.marks import Marks
from bot_layer.host.runs import Runs


@dataclass(frozen=True)
class Progress:
    """How many resources of a type were processed, and how many are expected, if known."""

    type: str
    done: int
    failed: int = 0
    expected: int | None = None


@dataclass(frozen=True)
class Practice:
    """A practice's sync. Times are seconds since 1970; ``problems`` are sentences without personal data."""

    name: str
    phase: str
    healthy: bool
    running: bool = False
    enabled: bool = True
    last_success: float | None = None
    next_run: float | None = None
    seconds_left: float | None = None
    progress: tuple[Progress, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """The state as the history stores it: done, refused (partial) or failed."""
        if not self.healthy:
            return "failed"
        return "refused" if self.phase == "partial" else "done"


@dataclass(frozen=True)
class PageSettings:
    """What the page shows, and how to reach it.

    ``marks`` says how far this host has searched for missed changes, if it does. ``practices``, ``start``, ``cancel``
    (with the name of a practice) and ``findings`` may take seconds, and may raise a BotError; one that is None is not
    offered. ``app_url`` is Medplum's own app, for links to resources.
    """

    password: str = field(repr=False)
    bots: Collection
    history: History
    inbox: Inbox | None
    runs: Callable[[], Runs]
    marks: Callable[[], Marks | None] = lambda: None
    practices: Callable[[], Sequence[Practice]] = tuple
    start: Callable[[str], None] | None = None
    cancel: Callable[[str], None] | None = None
    findings: Callable[[], Sequence[Finding]] | None = None
    app_url: str = ""
    now: Callable[[], float] = time.time
