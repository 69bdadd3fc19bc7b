"""How fast to write: as the server's quota and its answers allow, with a share left for the others of the project."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

# https://www.medplum.com/docs/rate-limits: read 1, search 20, any write 100, a conditional one more.
SEARCH_COST: Final = 20
WRITE_COST: Final = 100
CONDITIONAL_COST: Final = 140
_QUOTA: Final = re.compile(r'"fhirInteractions";r=(\d+);t=(\d+)')


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
    match = _QUOTA.search(header)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Concurrency:
    """How many batches at once: more while that makes it faster, fewer on conflict, refusal and slowness."""

    most: int
    allowed: float = 4.0
    speed: float = 0.0
    untroubled: bool = True  # nothing spoke against more yet: one more with each batch, else one with each round

    @property
    def limit(self) -> int:
        """The number of batches that may be under way."""
        return max(1, min(self.most, int(self.allowed)))

    def pushed_back(self) -> Concurrency:
        """After a 409, a 429, a 5xx or a broken connection."""
        return replace(self, allowed=max(1.0, self.allowed * 0.7), speed=self.speed * 0.7, untroubled=False)

    def finished(self, speed: float) -> Concurrency:
        """After a batch went through; ``speed`` is in resources a second over all workers."""
        if speed >= self.speed * 0.8:
            more = 1.0 if self.untroubled else 1 / max(self.allowed, 1.0)
            allowed = min(float(self.most), self.allowed + more)
            return replace(self, allowed=allowed, speed=0.8 * self.speed + 0.2 * speed if self.speed else speed)
        # Much slower than before: more at once did not help.
        fewer = max(1.0, self.allowed - 0.25)
        return replace(self, allowed=fewer, speed=0.9 * self.speed + 0.1 * speed, untroubled=False)
