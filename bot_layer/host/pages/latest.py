"""The latest known value of something that takes long to find out: a page never waits for it longer than it wants."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from bot_layer import codes
from bot_layer.errors import BotError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Latest(Generic[_T]):
    """A value that ``find`` gives in a thread, kept for some seconds.

    ``error`` is the sentence that says why there is none, ``at`` when that was found out.
    """

    def __init__(self, find: Callable[[], _T], first: _T, *, keep: float) -> None:
        self.known, self.error = first, ""
        self.at: float | None = None
        self._find, self._keep = find, keep
        self._until = 0.0
        self._finding: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """True while the value is being found out."""
        return self._finding is not None and not self._finding.done()

    async def get(self, *, wait: float) -> _T:
        """The value, or the one before where finding out takes longer than so many seconds."""
        if not self.running and time.monotonic() >= self._until:
            self._finding = asyncio.create_task(self._look())
        if self._finding is not None and not self._finding.done():
            await asyncio.wait({self._finding}, timeout=wait)
        return self.known

    def forget(self) -> None:
        """Find out anew at the next look."""
        self._until = 0.0

    async def _look(self) -> None:
        try:
            self.known = await anyio.to_thread.run_sync(self._find, limiter=anyio.CapacityLimiter(1))
            self.error = ""
        except BotError as fault:
            self.error = codes.explain(fault)
        except Exception as fault:  # noqa: BLE001  # whatever it is, the page shows the rest; its text may quote a person
            _log.warning("A part of the status page is missing: %s", type(fault).__name__)
            self.error = codes.advice("failed", "internal-error")
        self.at, self._until = time.time(), time.monotonic() + self._keep
