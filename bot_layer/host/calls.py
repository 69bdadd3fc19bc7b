"""The host's threads: intake never waits for running bots, and no bot uses the threads of another.

A call uses one thread throughout, because each thread switch costs as much as checking the call's login. It starts in
the intake, which admits a few calls at once, and then takes one of its bot's slots. A call beyond the bot's limit waits
two seconds for a slot and is then refused with ``too-many-calls``, because the calls before it may be blocked by a
partner that does not answer. A caller waits no longer than the bot's own timeout. A thread can't be stopped: it keeps
its slot until it ends.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from bot_layer.errors import TransientError

SERVICE: Final = "Bot host"
RETRY_AFTER: Final = 5
_INTAKE: Final = 16
_WAIT_SECONDS: Final = 2.0  # for an operation, Medplum turns a refusal into a 500 without a reason
_GRACE_SECONDS: Final = 5.0  # the bot's own deadline expires first, and its error names the partner
_T = TypeVar("_T")


class Calls:
    """The calls of one event loop. ``most`` is how many calls of one bot run at once."""

    def __init__(self, most: int) -> None:
        self._places: dict[str, threading.Semaphore] = {}
        self._most = most
        self._intake = anyio.CapacityLimiter(_INTAKE)
        self._unlimited = anyio.CapacityLimiter(math.inf)

    async def answer(self, work: Callable[[Turn], _T]) -> _T:
        """Run the work in a thread and return its result. The call is in the intake until it enters ``turn.of_bot``.

        Raises TransientError ``timed-out`` if the bot exceeds its timeout.
        """
        with anyio.CancelScope() as scope:
            turn = Turn(self._intake, self._place_of, scope)
            await self._intake.acquire_on_behalf_of(turn)
            try:
                return await anyio.to_thread.run_sync(work, turn, limiter=self._unlimited, abandon_on_cancel=True)
            finally:
                turn.leave_intake()
        raise TransientError("The bot took longer than it may; try again later.", service=SERVICE, code="timed-out")

    def _place_of(self, bot: str) -> threading.Semaphore:
        return self._places.setdefault(bot, threading.Semaphore(self._most))


class Turn:
    """One call on its way from the intake to one of its bot's slots."""

    def __init__(
        self, intake: anyio.CapacityLimiter, place_of: Callable[[str], threading.Semaphore], scope: anyio.CancelScope
    ) -> None:
        self._intake, self._place_of, self._scope = intake, place_of, scope
        self._loop, self._in_intake = asyncio.get_running_loop(), True

    def leave_intake(self) -> None:
        """Let another call into the intake. Runs in the event loop."""
        if self._in_intake:
            self._in_intake = False
            self._intake.release_on_behalf_of(self)

    @contextmanager
    def of_bot(self, bot: str, *, timeout: float, may_wait: bool = False) -> Iterator[None]:
        """Hold one of the bot's slots, in the call's thread. Set ``may_wait`` for an event, which is never sent again.

        Raises TransientError ``too-many-calls`` if the limit is reached.
        """
        place = self._place_of(bot)
        if not place.acquire(blocking=False):
            self._in_loop(self.leave_intake)
            if not place.acquire(timeout=None if may_wait else _WAIT_SECONDS):
                raise TransientError(
                    "The bot has too many calls at once; try again later.",
                    service=SERVICE,
                    code="too-many-calls",
                    retry_after=RETRY_AFTER,
                )
        try:
            self._in_loop(self._begin, timeout + _GRACE_SECONDS)
            yield
        finally:
            place.release()

    def _begin(self, seconds: float) -> None:
        self.leave_intake()
        self._scope.deadline = anyio.current_time() + seconds

    def _in_loop(self, act: Callable[..., None], *arguments: float) -> None:
        with suppress(RuntimeError):  # the host has already stopped
            self._loop.call_soon_threadsafe(act, *arguments)
