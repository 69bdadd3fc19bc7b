"""How many units of work a membership has left in this minute, as Medplum counts them.

Read 1, search 20, history 10, any write 100. Every attempt counts, also one that is refused.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from medplum_sandbox.medplum.outcomes import too_many_requests

READ, SEARCH, HISTORY, WRITE = 1, 20, 10, 100
WINDOW_SECONDS = 60.0


@dataclass
class Meter:
    """What one HTTP request used: filled in by the quota, read by the code that writes the RateLimit header."""

    remaining: int | None = None
    seconds: int = 0
    forced: bool = False  # shown also where the server shows none

    def header(self) -> str | None:
        """The second RateLimit line, or None where no quota was used."""
        if self.remaining is None:
            return None
        return f'"fhirInteractions";r={self.remaining};t={self.seconds}'


METER: ContextVar[Meter | None] = ContextVar("fhir_quota_meter", default=None)


@dataclass
class _Window:
    started: float
    used: int = 0


@dataclass
class Quotas:
    """The windows of all memberships. ``limits`` holds the projects whose quota differs from the default."""

    default: int
    limits: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _windows: dict[str, _Window] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def restart(self, default: int) -> None:
        """Give every membership a full quota of this many units a minute from now on."""
        with self._lock:
            self.default = default
            self._windows.clear()

    def charge(self, project: str, membership: str, units: int) -> None:
        """Takes the units, or raises the recorded 429."""
        limit = self.limits.get(project, self.default)
        with self._lock:
            now = self.clock()
            window = self._windows.get(membership)
            fresh = window is None or now - window.started >= WINDOW_SECONDS
            if window is None or fresh:
                window = self._windows[membership] = _Window(now)
            window.used += units
            used = window.used
            left_ms = round((window.started + WINDOW_SECONDS - now) * 1000)
        meter = METER.get()
        if meter is not None:
            meter.remaining = max(0, limit - used)
            meter.seconds = math.ceil(left_ms / 1000)
        if used > limit:
            raise too_many_requests(exhausted(limit, used=used, left_ms=left_ms, first=fresh))


def exhausted(limit: int, *, used: int, left_ms: int, first: bool = False) -> str:
    """The diagnostics of a 429, from which a client learns when to come back."""
    state = {
        "_remainingPoints": 0,
        "_msBeforeNext": left_ms,
        "_consumedPoints": used,
        "_isFirstInDuration": first,
        "limit": limit,
    }
    return json.dumps(state, separators=(",", ":"))
