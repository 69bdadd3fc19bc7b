"""The one way to repeat what a connection adapter cannot: calls of several requests, conditional writes, look-ups.

``repeat`` waits as a policy requires. ``compare_and_set`` does not wait: it reads, decides and writes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Future, RetryCallState, Retrying, retry_if_exception, retry_if_result

from bot_layer.errors import TransientError
from bot_layer.http import deadline
from bot_layer.http.policy import RetryPolicy

_Plan = TypeVar("_Plan")
_Result = TypeVar("_Result")


def repeat(
    call: Callable[[], _Result],
    policy: RetryPolicy,
    *,
    when: Callable[[TransientError], bool],
    again: Callable[[_Result], bool] = lambda _: False,
    asked: Callable[[_Result], float | None] = lambda _: None,
    before_again: Callable[[], None] = lambda: None,
    wait: Callable[[float], None] = time.sleep,
) -> _Result:
    """What the call returns, after as many attempts as the policy allows and the deadline leaves time for.

    A TransientError for which ``when`` is true is repeated; the last one is raised as it came. So is a result for which
    ``again`` is true, after the seconds that it asks for (``asked``); the last one is returned. ``before_again`` is
    called before each repetition: it looks up what became of a request whose answer was lost.
    """

    def is_repeatable(fault: BaseException) -> bool:
        return isinstance(fault, TransientError) and when(fault)

    def pause(state: RetryCallState) -> float:
        outcome = _outcome(state)
        fault = outcome.exception()
        seconds = fault.retry_after if isinstance(fault, TransientError) else asked(outcome.result())
        return policy.pause(state.attempt_number - 1, seconds)

    def is_over(state: RetryCallState) -> bool:
        return state.attempt_number > policy.retries or state.upcoming_sleep >= deadline.left()

    return Retrying(
        retry=retry_if_exception(is_repeatable) | retry_if_result(again),
        wait=pause,
        stop=is_over,
        before_sleep=lambda _: before_again(),
        sleep=wait,
        retry_error_callback=lambda state: _outcome(state).result(),
    )(call)


def _outcome(state: RetryCallState) -> Future:
    if state.outcome is None:
        raise AssertionError("an attempt was made")
    return state.outcome


def compare_and_set(
    write: Callable[[], _Result],
    *,
    tries: int = 3,
    when: Callable[[TransientError], bool] = lambda fault: fault.maybe_done or fault.status in {409, 412},
    look: Callable[[], None] = lambda: None,
) -> _Result:
    """What ``write`` returns, which sends a change on condition that nothing was changed since the last look.

    Where another write came between, or the answer was lost, ``look`` reads what is there now, so that ``write`` can
    decide again. The last TransientError is raised as it came.
    """
    at_once = RetryPolicy(retries=tries - 1, backoff=0.0, longest_wait=0.0)
    return repeat(write, at_once, when=when, before_again=look)


def write_planned(
    plan: _Plan, write: Callable[[_Plan], _Result], replan: Callable[[], _Plan], *, tries: int = 3
) -> _Result:
    """What ``write`` returns for the plan, made anew where another write came between or the answer was lost."""
    current = plan

    def look() -> None:
        nonlocal current
        current = replan()

    return compare_and_set(lambda: write(current), tries=tries, look=look)
