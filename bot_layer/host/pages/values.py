"""What the status page receives from outside the host: the state of each practice's sync, and the doctor's findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot_layer.findings import Finding


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
    started: float | None = None
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
class Providers:
    """Callables for data that the host itself does not have. Each may take seconds, and may raise a BotError.

    ``start`` and ``cancel`` take the name of a practice; an action that is None is not offered.
    """

    practices: Callable[[], Sequence[Practice]] = tuple
    start: Callable[[str], None] | None = None
    cancel: Callable[[str], None] | None = None
    findings: Callable[[], Sequence[Finding]] | None = None
