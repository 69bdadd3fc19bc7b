"""The threads of the host: intake never waits for running bots, and no bot takes the threads of another.

Each bot has a limit of calls at once. A call beyond it waits two seconds for its turn, and is then refused with
``too-many-calls`` instead of waiting behind calls that may hang on a silent partner. A caller waits no longer than the
bot's own timeout: its thread can't be stopped, so it keeps its place among the bot's calls until it ends.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from bot_layer.errors import TransientError

SERVICE: Final = "Bot host"
RETRY_AFTER: Final = 5
_INTAKE_THREADS: Final = 16
_WAIT_SECONDS: Final = 2.0  # behind an operation, Medplum makes a 500 without a reason of a refusal
_GRACE_SECONDS: Final = 5.0  # the bot's own deadline comes first, and names the partner
_T = TypeVar("_T")


class Calls:
    """The threads of one event loop. ``most`` is how many calls of one bot run at once."""

    def __init__(self, most: int) -> None:
        self._places: dict[str, anyio.CapacityLimiter] = defaultdict(lambda: anyio.CapacityLimiter(most))
        self._intake = anyio.CapacityLimiter(_INTAKE_THREADS)
        self._unlimited = anyio.CapacityLimiter(math.inf)

    async def take_in(self, work: Callable[[], _T]) -> _T:
        """What the work gives, in one of the threads that no bot ever runs in."""
        return await anyio.to_thread.run_sync(work, limiter=self._intake)

    async def run(self, bot: str, work: Callable[[], _T], *, timeout: float, may_wait: bool = False) -> _T:
        """What the bot gives. ``may_wait`` is for an event, which nobody would send again.

        Raises TransientError ``too-many-calls`` where its limit is reached, ``timed-out`` where it takes too long.
        """
        end = await self._take_place(bot, may_wait)
        loop, begun = asyncio.get_running_loop(), threading.Lock()

        def until_end() -> _T:
            if not begun.acquire(blocking=False):
                raise _timed_out()  # nobody waits any more, and the place was given back
            try:
                return work()
            finally:
                with suppress(RuntimeError):  # the host has ended meanwhile
                    loop.call_soon_threadsafe(end)

        try:
            with anyio.move_on_after(timeout + _GRACE_SECONDS):
                return await anyio.to_thread.run_sync(until_end, limiter=self._unlimited, abandon_on_cancel=True)
            raise _timed_out()
        finally:
            if begun.acquire(blocking=False):  # no thread began it
                end()

    async def _take_place(self, bot: str, may_wait: bool) -> Callable[[], None]:
        """Takes one of the bot's places; the function that gives it back."""
        limiter, call = self._places[bot], object()
        with anyio.move_on_after(None if may_wait else _WAIT_SECONDS) as waiting:
            await limiter.acquire_on_behalf_of(call)
        if waiting.cancelled_caught:
            raise TransientError(
                "The bot has too many calls at once; try again later.",
                service=SERVICE,
                code="too-many-calls",
                retry_after=RETRY_AFTER,
            )
        return partial(limiter.release_on_behalf_of, call)


def _timed_out() -> TransientError:
    return TransientError("The bot took longer than it may; try again later.", service=SERVICE, code="timed-out")
