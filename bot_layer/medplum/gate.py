"""How many batches are under way at once: as many as Medplum takes well at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bot_layer.http import pace

_TELLING: Final = 50  # a batch of fewer entries says little about the speed


class Gate:
    """Lets as many batches through as the concurrency allows."""

    def __init__(self, concurrency: pace.Concurrency, clock: Callable[[], float]) -> None:
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
