"""Medplum's quota: what a request costs, what is left, how long to wait. https://www.medplum.com/docs/rate-limits"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from bot_layer.http.policy import read_retry_after

SEARCH_COST: Final = 20
WRITE_COST: Final = 100
CONDITIONAL_COST: Final = 140
LONGEST_WINDOW: Final = 60.0
_FHIR_WINDOW: Final = re.compile(r'"fhirInteractions";r=(\d+);t=(\d+)')
_WINDOW: Final = re.compile(r"r=([0-9]{1,9});t=([0-9]{1,9})(?![0-9])")


@dataclass(frozen=True)
class Quota:
    """What is left of the quota. ``limit`` is the most that was ever seen; ``resets_at`` is on the caller's clock."""

    share: float
    remaining: int | None = None
    limit: int = 0
    resets_at: float = 0.0

    def pause(self, cost: int, now: float) -> float:
        """Seconds to wait before spending so much: 0 while our share lasts."""
        if self.remaining is None or now >= self.resets_at:
            return 0.0
        reserve = round(self.limit * (1 - self.share))
        # A cost that would never fit is let through when the window is fresh: the server has the last word.
        if self.remaining - cost >= reserve or self.remaining >= self.limit:
            return 0.0
        return self.resets_at - now

    def spent(self, cost: int, now: float) -> Quota:
        """After a request was sent, before its answer reports what is left."""
        if self.remaining is None:
            return self
        if now >= self.resets_at:
            return replace(self, remaining=max(self.limit - cost, 0), resets_at=now + 60)
        return replace(self, remaining=max(self.remaining - cost, 0))

    def observed(self, remaining: int, seconds: int, now: float) -> Quota:
        """After an answer reported what is left, and for how long."""
        known = self.remaining if self.remaining is not None and now < self.resets_at else remaining
        # Answers overtake each other: within a window the lowest figure is the newest.
        return replace(
            self, remaining=min(known, remaining), limit=max(self.limit, remaining), resets_at=now + max(seconds, 1)
        )


def read_rate_limit(header: str) -> tuple[int, int] | None:
    """What is left of the FHIR quota and the seconds until it is filled again, from a ``RateLimit`` header."""
    match = _FHIR_WINDOW.search(header)
    return (int(match[1]), int(match[2])) if match else None


@dataclass
class Pace:
    """Keeps the requests of one login under a share of the quota. Safe to share between threads.

    ``wait`` is how it waits, also for the repetitions of what Medplum did not take.
    """

    share: float
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        self._quota = Quota(self.share)
        self._lock = threading.Lock()

    def take(self, request: httpx.Request) -> None:
        """Wait until the request may be sent. A batch names its own cost as the extension ``cost``."""
        cost = 0  # of what is not FHIR
        if "/fhir/" in request.url.path and request.method == "GET":
            cost = SEARCH_COST if request.url.query else 1
        elif "/fhir/" in request.url.path:
            usual = CONDITIONAL_COST if "If-None-Exist" in request.headers else WRITE_COST
            cost = int(request.extensions.get("cost", usual))
        while True:
            with self._lock:
                pause = self._quota.pause(cost, self.clock())
                if not pause:
                    self._quota = self._quota.spent(cost, self.clock())
                    return
            self.wait(min(pause, LONGEST_WINDOW))

    def pause(self, seconds: float) -> None:
        """Wait in the way that is set at the moment."""
        self.wait(seconds)

    def observe(self, response: httpx.Response) -> None:
        """Learn from the answer what is left."""
        seen = read_rate_limit(response.headers.get("RateLimit", ""))
        if seen:
            with self._lock:
                self._quota = self._quota.observed(*seen, self.clock())


def seconds_until_filled(headers: Mapping[str, str], *, now: float) -> float | None:
    """The wait that a 429 asks for: Retry-After, else the ``RateLimit`` header, at most a minute, the length of
    Medplum's windows.

    The time until the used-up window ends; of any window where none is at 0: the request cost more than was left. None
    where the answer does not say. ``now``: seconds since 1970.
    """
    asked = read_retry_after(headers.get("Retry-After"), now=now)
    if asked is None:
        windows = [(int(left), float(seconds)) for left, seconds in _WINDOW.findall(headers.get("RateLimit", ""))]
        used_up = [seconds for left, seconds in windows if left == 0]
        asked = max(used_up or [seconds for _, seconds in windows], default=None)
    return None if asked is None else min(asked, LONGEST_WINDOW)
