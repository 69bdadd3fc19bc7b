"""Work after the answer: order, independence, and an end that can be waited for."""

from __future__ import annotations

import threading

import pytest

from medplum_sandbox.medplum.backlog import Backlog


def test_a_lane_is_processed_in_order() -> None:
    """One lane is worked off in its order."""
    backlog, done = Backlog(), list[int]()
    for number in range(50):
        backlog.submit("a", lambda number=number: done.append(number))  # type: ignore[misc]  # a default binds the loop's value
    backlog.settle()
    assert done == list(range(50))


def test_a_slow_lane_keeps_no_other_waiting() -> None:
    """A task of another lane is done while the first one still waits for it."""
    backlog, released = Backlog(), threading.Event()
    seen: list[bool] = []
    backlog.submit("slow", lambda: seen.append(released.wait(timeout=240)))
    backlog.submit("fast", released.set)
    backlog.settle()
    assert seen == [True]


def test_settle_waits_for_work_that_work_creates() -> None:
    """A delivery that causes another one is not the end."""
    backlog, done = Backlog(), list[str]()

    def first() -> None:
        backlog.submit("b", lambda: done.append("second"))

    backlog.submit("a", first)
    backlog.settle()
    assert done == ["second"]


def test_settle_names_what_is_still_running() -> None:
    """It does not wait forever."""
    backlog, released = Backlog(), threading.Event()
    seen: list[bool] = []
    backlog.submit("a", lambda: seen.append(released.wait(timeout=240)))
    with pytest.raises(TimeoutError, match="1 deliveries"):
        backlog.settle(timeout=0.01)
    released.set()
    backlog.settle()
    assert seen == [True]


def test_a_fault_inside_a_task_comes_out_of_settle() -> None:
    """It is not lost in a thread, and the lane continues."""
    backlog, done = Backlog(), list[str]()

    def broken() -> None:
        raise RuntimeError("broken")

    backlog.submit("a", broken)
    backlog.submit("a", lambda: done.append("next"))
    with pytest.raises(RuntimeError, match="broken"):
        backlog.settle()
    assert done == ["next"]


def test_after_close_nothing_is_begun() -> None:
    """Queued and later tasks are dropped; running ones may end."""
    backlog, begun, released = Backlog(), threading.Event(), threading.Event()
    done: list[str] = []

    def running() -> None:
        begun.set()
        released.wait(timeout=240)

    backlog.submit("a", running)
    assert begun.wait(timeout=240)
    backlog.submit("a", lambda: done.append("queued"))
    backlog.close()
    backlog.submit("b", lambda: done.append("late"))
    released.set()
    backlog.settle()
    assert done == []
