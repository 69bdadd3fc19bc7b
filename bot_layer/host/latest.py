"""The latest known value of a slow query, for a page that must answer quickly."""

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
    """A value that ``find`` computes in a thread, cached for a limited time.

    ``error`` is a sentence that says why the last attempt failed, ``at`` is when it ended.
    """

    def __init__(self, find: Callable[[], _T], first: _T, *, keep: float) -> None:
        self.known, self.error = first, ""
        self.at: float | None = None
        self._find, self._keep = find, keep
        self._until = 0.0
        self._finding: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """True while ``find`` runs."""
        return self._finding is not None and not self._finding.done()

    async def get(self, *, wait: float) -> _T:
        """The value; the previous one if ``find`` takes longer than ``wait`` seconds."""
        if not self.running and time.monotonic() >= self._until:
            self._finding = asyncio.create_task(self._look())
        if self._finding is not None and not self._finding.done():
            await asyncio.wait({self._finding}, timeout=wait)
        return self.known

    def forget(self) -> None:
        """Call ``find`` again at the next ``get``."""
        self._until = 0.0

    async def _look(self) -> None:
        try:
            self.known = await anyio.to_thread.run_sync(self._find, limiter=anyio.CapacityLimiter(1))
            self.error = ""
        except BotError as fault:
            self.error = codes.explain(fault)
        except Exception as fault:  # noqa: BLE001  # the page shows the rest; the text may quote a person
            _log.warning("A page shows an earlier value: %s", type(fault).__name__)
            self.error = codes.advice("failed", "internal-error")
        self.at, self._until = time.time(), time.monotonic() + self._keep
