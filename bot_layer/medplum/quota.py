"""Medplum's quota: what a request costs, what is left, how long to wait. https://www.medplum.com/docs/rate-limits"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from bot_layer.fhir.json import read_object
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
        """After a request was sent, before its answer says what is left."""
        if self.remaining is None:
            return self
        if now >= self.resets_at:
            return replace(self, remaining=max(self.limit - cost, 0), resets_at=now + 60)
        return replace(self, remaining=max(self.remaining - cost, 0))

    def observed(self, remaining: int, seconds: int, now: float) -> Quota:
        """After an answer said what is left, and for how long."""
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
        """Wait until the request may be sent."""
        cost = _cost(request)
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


def _cost(request: httpx.Request) -> int:
    """The units of a request; a batch names its own as the extension ``cost``."""
    if "/fhir/" not in request.url.path:
        return 0
    if request.method == "GET":
        return SEARCH_COST if request.url.query else 1
    conditional = "If-None-Exist" in request.headers
    return int(request.extensions.get("cost", CONDITIONAL_COST if conditional else WRITE_COST))


def seconds_until_filled(headers: Mapping[str, str], body: bytes, *, now: float) -> float | None:
    """The wait that a 429 asks for: Retry-After, the ``RateLimit`` header, or ``_msBeforeNext`` of its outcome.

    At most a minute, the length of Medplum's windows; None where the answer does not say. ``now``: seconds since 1970.
    """
    asked = read_retry_after(headers.get("Retry-After"), now=now)
    if asked is None:
        asked = _of_windows(headers.get("RateLimit", ""))
    if asked is None:
        asked = _of_outcome(body)
    return None if asked is None else min(max(asked, 0.0), LONGEST_WINDOW)


def _of_windows(header: str) -> float | None:
    """The time until the used-up window ends; of any window where none is at 0: the request cost more than was left."""
    windows = [(int(left), float(seconds)) for left, seconds in _WINDOW.findall(header)]
    used_up = [seconds for left, seconds in windows if left == 0]
    return max(used_up or [seconds for _, seconds in windows], default=None)


def _of_outcome(body: bytes) -> float | None:
    issues = read_object(body).get("issue")
    for issue in issues if isinstance(issues, list) else []:
        text = issue.get("diagnostics") if isinstance(issue, dict) else None
        found = read_object(text.encode(errors="replace")) if isinstance(text, str) else {}
        milliseconds = found.get("_msBeforeNext")
        if isinstance(milliseconds, int | float):
            return float(milliseconds) / 1000
    return None
