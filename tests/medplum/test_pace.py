"""How fast to write."""

from __future__ import annotations

from bot_layer.medplum.gate import Concurrency
from bot_layer.medplum.quota import Quota, read_rate_limit


def test_the_rate_limit_header_is_read() -> None:
    """The FHIR part of it; anything else is nothing."""
    assert read_rate_limit('"requests";r=5;t=1, "fhirInteractions";r=420;t=17') == (420, 17)
    assert read_rate_limit('"requests";r=5;t=1') is None


def test_a_share_is_left_for_others() -> None:
    """With 0.8 of 1,000 the last 200 are not touched before the window ends."""
    quota = Quota(0.8).observed(1000, 60, now=0)
    assert quota.pause(100, now=0) == 0
    quota = quota.observed(300, 50, now=10)
    assert quota.pause(100, now=10) == 0
    assert quota.pause(101, now=10) == 50
    assert quota.pause(101, now=60) == 0


def test_what_was_spent_counts_before_the_answer_comes() -> None:
    """And an answer that was overtaken does not give it back."""
    quota = Quota(0.5).observed(1000, 60, now=0).spent(400, now=1)
    assert quota.remaining == 600
    assert quota.observed(900, 59, now=1).remaining == 600
    assert quota.spent(100, now=100).remaining == 900
    assert quota.observed(800, 60, now=100).remaining == 800


def test_before_the_first_answer_nothing_is_known() -> None:
    """Nothing waits and nothing is counted; a cost that never fits is let through when the window is fresh."""
    assert Quota(0.5).pause(10, now=0) == 0
    assert Quota(0.5).spent(10, now=0).remaining is None
    assert Quota(0.5).observed(100, 60, now=0).pause(1000, now=0) == 0


def test_concurrency_follows_the_server() -> None:
    """More while it gets faster, up to the most; fewer on push-back and when it gets slower; never none."""
    state = Concurrency(4, allowed=2.0)
    for speed in (10, 20, 30, 40, 50, 60, 70, 80, 90, 100):
        state = state.finished(speed)
    assert state.limit == 4
    slower = state.finished(1).finished(1)
    assert slower.allowed < state.allowed
    for _ in range(20):
        state = state.pushed_back()
    assert state.limit == 1


def test_before_any_trouble_each_batch_allows_one_more() -> None:
    """The start is quick; after the first push-back it takes a whole round of batches for one more."""
    quick = Concurrency(8, allowed=2.0).finished(10).finished(10).finished(10)
    assert quick.limit == 5
    careful = quick.pushed_back()
    assert careful.finished(10).allowed - careful.allowed < 0.5
