"""The time that a call of a bot has left. Every wait and every timeout under it is shortened to that.

Whoever runs a bot sets it once (``with deadline.within(60)``); it is a context variable, so that it reaches every
client without an argument. A thread that works for the call copies the context (``contextvars.copy_context``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Clock = Callable[[], float]


# When the call ends, on its clock.
_current: ContextVar[tuple[float, Clock] | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float, *, clock: Clock = time.monotonic) -> Iterator[None]:
    """Everything inside ends after so many seconds; an outer deadline that ends earlier still holds."""
    token = _current.set((clock() + min(seconds, left()), clock))
    try:
        yield
    finally:
        _current.reset(token)


def left() -> float:
    """The seconds that are left: infinity without a deadline, 0 after it."""
    if (current := _current.get()) is None:
        return math.inf
    ends, clock = current
    return max(ends - clock(), 0.0)


def shorten(seconds: float) -> float:
    """These seconds, or what is left of the deadline if that is less."""
    return min(seconds, left())
