"""How many batches are under way at once: as many as Medplum can process well at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

_LEAST_ENTRIES: Final = 25  # a batch of fewer entries does not show the speed
_WORTH: Final = 1.02  # times faster: otherwise one more batch at once is not worth it
_TRIED_AGAIN: Final = 10  # rounds after which one more is tried again: the server may have become faster


@dataclass(frozen=True)
class Concurrency:
    """How many batches at once: one more while that is faster, one fewer where it is not, fewer when pushed back.

    On Medplum 5.1.13 four plain batches at once are as fast as it gets, and eight are slower again.
    """

    most: int
    allowed: int = 4
    speeds: Mapping[int, float] = field(default_factory=dict)  # resources a second over all, by batches at once
    batches: int = 0  # that went through since the number was changed

    @property
    def limit(self) -> int:
        """The number of batches that may be under way."""
        return max(1, min(self.most, self.allowed))

    def pushed_back(self) -> Concurrency:
        """After a 409, a 429, a 5xx or a broken connection. The speeds measured before no longer apply."""
        return Concurrency(self.most, max(1, int(self.limit * 0.7)))

    def finished(self, speed: float) -> Concurrency:
        """After a batch went through; ``speed`` is in resources a second over all workers."""
        now = self.limit
        speed = 0.7 * self.speeds.get(now, speed) + 0.3 * speed
        state = replace(self, speeds={**self.speeds, now: speed}, batches=self.batches + 1)
        if state.batches < now:
            return state  # not a whole round yet
        fewer, more = self.speeds.get(now - 1), self.speeds.get(now + 1)
        if fewer is not None and speed < _WORTH * fewer:
            return replace(state, allowed=now - 1, batches=0)
        is_untried = more is None or state.batches >= _TRIED_AGAIN * now
        if now < self.most and (is_untried or (more or 0.0) >= _WORTH * speed):
            return replace(state, allowed=now + 1, batches=0)
        if fewer is None and now > 1:
            return replace(state, allowed=now - 1, batches=0)
        return state


@dataclass
class Turn:
    """A batch's time inside. ``is_slower``: Medplum had too much to do."""

    is_slower: bool = False


class Gate:
    """Lets as many batches through as the concurrency allows."""

    def __init__(self, concurrency: Concurrency, clock: Callable[[], float]) -> None:
        self._state = concurrency
        self._clock = clock
        self._free = threading.Condition()
        self._inside = 0

    @contextmanager
    def turn(self, size: int) -> Iterator[Turn]:
        """Waits until a batch may be sent; the gate learns from how long it takes."""
        with self._free:
            self._free.wait_for(lambda: self._inside < self._state.limit)
            self._inside += 1
        turn, started = Turn(), self._clock()
        try:
            yield turn
        finally:
            with self._free:
                elapsed = max(self._clock() - started, 1e-6)
                if turn.is_slower:
                    self._state = self._state.pushed_back()
                elif size >= _LEAST_ENTRIES and self._inside >= self._state.limit:
                    # A gate that is not full proves nothing: there was no more to send.
                    self._state = self._state.finished(size / elapsed * self._inside)
                self._inside -= 1
                self._free.notify_all()
