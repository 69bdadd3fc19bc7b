"""A transport that repeats nothing, for callers that are not yet on ``bot_layer.http.transport``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bot_layer.http.answer import Answer
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Opened, Transport

__all__ = ["Opened", "Reply", "Wire"]

Reply = Answer
_ONCE: Final = RetryPolicy(retries=0, connect=10.0, read=120.0)


class Wire(Transport):
    """One service, asked once."""

    def __init__(self, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(service, _ONCE, clock, "answer-lost", 64 * 1024 * 1024)
