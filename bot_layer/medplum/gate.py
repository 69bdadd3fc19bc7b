"""How many batches are under way at once: as many as Medplum takes well at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

_TELLING: Final = 50  # a batch of fewer entries says little about the speed


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


class Gate:
    """Lets as many batches through as the concurrency allows."""

    def __init__(self, concurrency: Concurrency, clock: Callable[[], float]) -> None:
        self._state = concurrency
        self._clock = clock
        self._free = threading.Condition()
        self._inside = 0

    @contextmanager
    def turn(self, size: int) -> Iterator[Turn]:
        """A batch's time inside, from which the gate learns."""
        with self._free:
            self._free.wait_for(lambda: self._inside < self._state.limit)
            self._inside += 1
        turn, started = Turn(), self._clock()
        try:
            yield turn
        finally:
            with self._free:
                elapsed = max(self._clock() - started, 1e-6)
                if turn.slower:
                    self._state = self._state.pushed_back()
                elif size >= _TELLING and self._inside >= self._state.limit:
                    # A gate that is not full proves nothing: there was no more to send.
                    self._state = self._state.finished(size / elapsed * self._inside)
                self._inside -= 1
                self._free.notify_all()


class Turn:
    """What a batch says of itself."""

    slower = False

    def pushed_back(self) -> None:
        """Medplum had too much to do."""
        self.slower = True
