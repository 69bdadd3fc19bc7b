"""The one way to repeat what a connection adapter cannot: calls of several requests, conditional writes, look-ups.

``repeat`` waits as a policy says. ``compare_and_set`` does not wait: it reads, decides and writes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception

from bot_layer.errors import TransientError
from bot_layer.http import deadline
from bot_layer.http.policy import RetryPolicy

_Result = TypeVar("_Result")


def repeat(
    call: Callable[[], _Result],
    policy: RetryPolicy,
    *,
    when: Callable[[TransientError], bool],
    before_again: Callable[[], None] = lambda: None,
    wait: Callable[[float], None] = time.sleep,
) -> _Result:
    """What the call returns, after as many attempts as the policy allows and the deadline leaves time for.

    A TransientError for which ``when`` is true is repeated; the last one is raised as it came. ``before_again`` is
    called before each repetition: it looks up what became of a request whose answer was lost.
    """

    def is_repeatable(fault: BaseException) -> bool:
        return isinstance(fault, TransientError) and when(fault)

    def pause(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome is not None else None
        asked = fault.retry_after if isinstance(fault, TransientError) else None
        return policy.pause(state.attempt_number - 1, asked)

    def is_over(state: RetryCallState) -> bool:
        return state.attempt_number > policy.retries or state.upcoming_sleep >= deadline.left()

    return Retrying(
        retry=retry_if_exception(is_repeatable),
        wait=pause,
        stop=is_over,
        before_sleep=lambda _: before_again(),
        sleep=wait,
        reraise=True,
    )(call)


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
