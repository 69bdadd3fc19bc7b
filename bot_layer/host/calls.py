"""The host's threads: intake never waits for running bots, and no bot uses the threads of another.

A call uses one thread throughout, and its thread and the event loop meet only at its start and its end, because each
switch between them costs as much as checking the call's login. The call starts in the intake, which admits a few calls
at once, and then takes one of its bot's slots. A call beyond the bot's limit waits two seconds for a slot and is then
refused with ``too-many-calls``, because the calls before it may be blocked by a partner that does not answer. A caller
waits no longer than the bot's own timeout. A thread can't be stopped: it keeps its slot until it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Semaphore
from typing import Final, TypeVar

from bot_layer.errors import TransientError

SERVICE: Final = "Bot host"
RETRY_AFTER: Final = 5
_INTAKE: Final = 16
_MOST_THREADS: Final = 10_000  # more than there can be connections: what limits a call is its slot
_WAIT_SECONDS: Final = 2.0  # for an operation, Medplum turns a refusal into a 500 without a reason
_GRACE_SECONDS: Final = 5.0  # the bot's own deadline expires first, and its error names the partner
_T = TypeVar("_T")


class Calls:
    """The calls of one host. ``most`` is how many calls of one bot run at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: dict[str, Semaphore] = {}
        self._intake = Semaphore(_INTAKE)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "call")

    async def answer(self, work: Callable[[Turn], _T]) -> _T:
        """Run the work in a thread and return its result. The call is in the intake until it enters ``turn.of_bot``.

        Raises TransientError ``timed-out`` if the bot exceeds its timeout.
        """
        turn = Turn(self._intake, self._place_of)
        running = asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, turn.taken, work)
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its caller may have left
        while turn.seconds_left > 0:
            done, _ = await asyncio.wait({running}, timeout=turn.seconds_left)
            if done:
                return running.result()
        raise TransientError("The bot took longer than it may; try again later.", service=SERVICE, code="timed-out")

    def _place_of(self, bot: str) -> Semaphore:
        return self._places.setdefault(bot, Semaphore(self._most))


class Turn:
    """One call on its way from the intake to one of its bot's slots, in the call's thread."""

    def __init__(self, intake: Semaphore, place_of: Callable[[str], Semaphore]) -> None:
        self._intake, self._place_of = intake, place_of
        self._in_intake = False
        self._deadline: float | None = None

    @property
    def seconds_left(self) -> float:
        """How long the caller waits before it looks again: until the bot has begun there is no deadline."""
        return _WAIT_SECONDS if self._deadline is None else self._deadline - time.monotonic()

    def taken(self, work: Callable[[Turn], _T]) -> _T:
        """The result of the work, which begins once the intake has room."""
        self._intake.acquire()
        self._in_intake = True
        try:
            return work(self)
        finally:
            self._leave_intake()

    @contextmanager
    def of_bot(self, bot: str, *, timeout: float, may_wait: bool = False) -> Iterator[None]:
        """Hold one of the bot's slots. Set ``may_wait`` for an event, which is never sent again.

        Raises TransientError ``too-many-calls`` if the limit is reached.
        """
        self._leave_intake()
        place = self._place_of(bot)
        if not place.acquire(timeout=None if may_wait else _WAIT_SECONDS):
            raise TransientError(
                "The bot has too many calls at once; try again later.",
                service=SERVICE,
                code="too-many-calls",
                retry_after=RETRY_AFTER,
            )
        try:
            self._deadline = time.monotonic() + timeout + _GRACE_SECONDS
            yield
        finally:
            place.release()

    def _leave_intake(self) -> None:
        if self._in_intake:
            self._in_intake = False
            self._intake.release()
