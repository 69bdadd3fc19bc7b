"""What counts as busy, what may be repeated, and what a Retry-After means."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import InputError, TransientError
from bot_layer.http import deadline
from bot_layer.http.policy import BUSY, LONGEST_RETRY_AFTER, RetryPolicy, may_repeat, read_retry_after
from bot_layer.http.retry import compare_and_set, repeat

NOW = 1_800_000_000.0


@pytest.mark.parametrize("status", range(100, 600))
def test_only_after_a_429_an_unsafe_request_is_repeated(status: int) -> None:
    """A service answers 429 before it acts; after any other answer the write may have been done."""
    assert may_repeat(status, safe=False) is (status == 429)
    assert may_repeat(status, safe=True) is (status in BUSY)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("864000", LONGEST_RETRY_AFTER),
        (str(int(NOW) + 30), 30.0),
        (str(int(NOW + 30) * 1000), 30.0),
        (format_datetime(datetime.fromtimestamp(NOW + 60, UTC), usegmt=True), 60.0),
        (format_datetime(datetime.fromtimestamp(NOW - 60, UTC), usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Mon, 32 Jan 2026 00:00:00 GMT", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", None),
        ("9" * 400, None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_retry_after_is_read_or_ignored(value: str | None, seconds: float | None) -> None:
    """Seconds, dates and times since 1970 are read; everything else is as if it were not there."""
    assert read_retry_after(value, now=NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [-+A-Z0-9]{1,6}"))
def test_no_retry_after_is_an_exception(value: str) -> None:
    """Whatever a gateway writes there, the wait is bounded or absent."""
    seconds = read_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


@given(st.integers(0, 200), st.none() | st.floats(0, 1e9))
def test_no_pause_is_longer_than_the_policy_allows(attempt: int, asked: float | None) -> None:
    """Neither many attempts nor a Retry-After exceed the longest wait."""
    assert 0 <= RetryPolicy(longest_wait=20).pause(attempt, asked) <= 20


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def busy(asked: float | None = None) -> TransientError:
    return TransientError("busy", service="Partner", retry_after=asked)


def test_a_call_is_repeated_as_often_as_the_policy_says() -> None:
    """The pauses double; the last failure is raised unchanged."""
    clock, failure = Clock(), busy()

    def call() -> None:
        raise failure

    with pytest.raises(TransientError) as caught:
        repeat(call, RetryPolicy(retries=3, backoff=1), when=lambda _: True, wait=clock.wait)
    assert (caught.value, clock.waits) == (failure, [1.0, 2.0, 4.0])


def test_an_error_that_may_not_be_retried_is_raised_at_once() -> None:
    """The caller says which failures are safe to repeat."""
    clock = Clock()

    def call() -> None:
        raise busy()

    with pytest.raises(TransientError):
        repeat(call, RetryPolicy(), when=lambda _: False, wait=clock.wait)
    assert clock.waits == []


@pytest.mark.parametrize(("answers", "found", "waits"), [((1, 2, 0), 0, [5.0, 5.0]), ((1, 2, 3), 3, [5.0, 5.0])])
def test_an_answer_that_is_not_final_is_requested_again(
    answers: tuple[int, ...], found: int, waits: list[float]
) -> None:
    """As long as it asks to wait; the last answer is returned, whatever it is."""
    clock, given = Clock(), iter(answers)
    policy = RetryPolicy(retries=2, backoff=1)
    result = repeat(lambda: next(given), policy, when=lambda _: False, again=bool, asked=lambda _: 5.0, wait=clock.wait)
    assert (result, clock.waits) == (found, waits)


@pytest.mark.parametrize("status", [None, 400, 409, 412, 500])
def test_a_write_is_decided_again_where_another_one_came_between(status: int | None) -> None:
    """Without a pause, three times in all; any other failure is raised at once."""
    seen: list[str] = []

    def write() -> None:
        seen.append("write")
        raise TransientError("Busy.", service="Partner", status=status)

    with pytest.raises(TransientError):
        compare_and_set(write, look=lambda: seen.append("look"))
    overtaken = ["write", "look", "write", "look", "write"]
    assert seen == (overtaken if status in (409, 412) else ["write"])


def test_a_bot_with_60_seconds_never_waits_90() -> None:
    """A wait that would exceed the deadline does not start."""
    clock = Clock()

    def call() -> None:
        raise busy(asked=90.0)

    patient = RetryPolicy(retries=9, longest_wait=600)
    with deadline.within(60, clock=clock), pytest.raises(TransientError):
        repeat(call, patient, when=lambda _: True, wait=clock.wait)
    assert clock.waits == []


def test_timeouts_shrink_with_the_deadline() -> None:
    """A silent service is abandoned when the time of the call is over; an inner deadline never extends an outer one."""
    clock, policy = Clock(), RetryPolicy(connect=5, read=30)
    assert policy.timeouts() == (5, 30)
    with deadline.within(20, clock=clock), deadline.within(900, clock=clock):
        assert policy.timeouts() == (5, 20)
        clock.wait(17)
        assert policy.timeouts() == (3, 3)
        clock.wait(17)
        assert deadline.left() == 0
        assert 0 < policy.timeouts()[0] < 0.1


def test_a_lost_answer_is_looked_up_before_the_request_is_repeated() -> None:
    """Between two attempts, and not after the last; what the look-up finds wrong ends it."""
    steps: list[str] = []

    def call() -> None:
        steps.append("send")
        raise busy()

    at_once = RetryPolicy(retries=2, backoff=0, longest_wait=0)
    with pytest.raises(TransientError):
        repeat(call, at_once, when=lambda _: True, before_again=lambda: steps.append("look"), wait=Clock().wait)
    assert steps == ["send", "look", "send", "look", "send"]

    def refuse() -> None:
        raise InputError("gone")

    with pytest.raises(InputError):
        repeat(call, at_once, when=lambda _: True, before_again=refuse, wait=Clock().wait)
