"""One caller asks, the others get its answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bot_layer.errors import TransientError
from bot_layer.http import deadline
from bot_layer.http.single_flight import SingleFlight
from tests.host.process import until

CALLERS = 42


class Endpoint:
    """A token endpoint that answers, or fails, when a test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.asking, self.open = threading.Event(), threading.Event()
        self.fails = False

    def ask(self) -> str:
        self.asked += 1
        self.asking.set()
        assert self.open.wait(240)
        if self.fails:
            raise TransientError("Silent.", service="Partner", code="service-unreachable")
        return f"token-{self.asked}"


@pytest.mark.parametrize("fails", [False, True], ids=["answer", "failure"])
def test_of_many_callers_one_asks_and_all_share_its_result(fails: bool) -> None:
    """42 callers of a silent endpoint wait for one timeout, not for 42."""
    endpoint, flights = Endpoint(), SingleFlight[str]("Partner")
    endpoint.fails = fails
    began = threading.Barrier(CALLERS)

    def call(_number: int) -> str:
        began.wait(240)
        try:
            return flights.do("key", endpoint.ask)
        except TransientError as failure:
            return failure.code

    with ThreadPoolExecutor(CALLERS) as pool:
        results = [pool.submit(call, number) for number in range(CALLERS)]
        assert endpoint.asking.wait(240)
        waiting: Any = flights._under_way["key"]
        until(lambda: len(waiting._waiters) == CALLERS - 1)
        endpoint.open.set()
        found = {each.result(240) for each in results}
    assert (endpoint.asked, found) == (1, {"service-unreachable" if fails else "token-1"})


def test_after_a_failure_the_next_caller_asks_again() -> None:
    """No failure outlives its request."""
    endpoint, flights = Endpoint(), SingleFlight[str]("Partner")
    endpoint.open.set()
    endpoint.fails = True
    with pytest.raises(TransientError):
        flights.do("key", endpoint.ask)
    endpoint.fails = False
    assert flights.do("key", endpoint.ask) == "token-2"


def test_different_keys_do_not_wait_for_each_other() -> None:
    """One practice's silent endpoint does not delay others."""
    endpoint, flights = Endpoint(), SingleFlight[str]("Partner")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.do, "silent", endpoint.ask)
        assert endpoint.asking.wait(240)
        assert flights.do("other", lambda: "token") == "token"
        endpoint.open.set()
        assert first.result(240) == "token-1"


def test_a_waiting_caller_has_its_own_deadline() -> None:
    """A caller with little time left does not wait for another one's request."""
    endpoint, flights = Endpoint(), SingleFlight[str]("Partner")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.do, "key", endpoint.ask)
        assert endpoint.asking.wait(240)
        with deadline.within(0.01), pytest.raises(TransientError):
            flights.do("key", lambda: "never asked")
        endpoint.open.set()
        assert first.result(240) == "token-1"


def test_a_caller_without_time_fails_alone() -> None:
    """That one caller's deadline ended says nothing about the service: the next one asks itself."""
    endpoint, flights = Endpoint(), SingleFlight[str]("Partner")
    endpoint.fails = True

    def hurried() -> str:
        with deadline.within(0.0):
            return flights.do("key", endpoint.ask)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hurried)
        assert endpoint.asking.wait(240)
        second = pool.submit(flights.do, "key", lambda: "token")
        waiting: Any = flights._under_way["key"]
        until(lambda: len(waiting._waiters) == 1)
        endpoint.open.set()
        with pytest.raises(TransientError):
            first.result(240)
        assert second.result(240) == "token"
