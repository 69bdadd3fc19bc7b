"""Event counts of the last hour by kind, for the alerts. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

_HOUR = 3600.0


class Occurrences:
    """Counts by kind (``refused``, ``silent``, ``missed``) of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._seen: deque[tuple[float, str, int]] = deque(maxlen=10_000)

    def add(self, kind: str, count: int = 1) -> None:
        """Count an occurrence, or several, now."""
        with self._lock:
            self._seen.append((self._clock(), kind, count))

    def of_an_hour(self) -> Counter[str]:
        """The counts of the last hour."""
        found: Counter[str] = Counter()
        since = self._clock() - _HOUR
        with self._lock:
            for at, kind, count in self._seen:
                if at >= since:
                    found[kind] += count
        return found
