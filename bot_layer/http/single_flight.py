"""One of several callers asks a service, and the others get its answer, or its failure.

Callers that wait for each other one by one would wait for a silent token endpoint once each: 42 callers with a timeout
of 2 seconds waited 84.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from bot_layer.errors import TransientError
from bot_layer.http import deadline

_Value = TypeVar("_Value")


class _OutOfTime(Exception):
    """The caller that asked had no time left: its failure says nothing about the service."""


class SingleFlight(Generic[_Value]):
    """Requests under way, by what they ask for. Safe to share between threads."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._under_way: dict[Hashable, Future[_Value]] = {}
        self._lock = threading.Lock()

    def do(self, key: Hashable, ask: Callable[[], _Value]) -> _Value:
        """What ``ask`` returns or raises; while it runs for a key, all callers with this key wait for that one.

        Raises TransientError where the caller's deadline ends before.
        """
        while True:
            with self._lock:
                waiting = self._under_way.get(key)
                flight = self._under_way.setdefault(key, Future())
            if waiting is None:
                return self._ask(key, flight, ask)
            left = deadline.left()
            if not wait((flight,), None if math.isinf(left) else left).done:
                raise TransientError(
                    f"{self._service} has not answered another call in time; try again later.",
                    service=self._service,
                    code="service-unreachable",
                )
            fault = flight.exception()
            if not isinstance(fault, _OutOfTime):
                return flight.result()

    def _ask(self, key: Hashable, flight: Future[_Value], ask: Callable[[], _Value]) -> _Value:
        try:
            value = ask()
        except BaseException as fault:
            self._end(key)
            flight.set_exception(_OutOfTime() if deadline.left() <= 0 else fault)
            raise
        self._end(key)
        flight.set_result(value)
        return value

    def _end(self, key: Hashable) -> None:
        with self._lock:
            del self._under_way[key]
