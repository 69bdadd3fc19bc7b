"""How fast to write."""

from __future__ import annotations

import pytest

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


def test_spent_units_count_before_the_answer_arrives() -> None:
    """And an answer that was overtaken does not give it back."""
    quota = Quota(0.5).observed(1000, 60, now=0).spent(400, now=1)
    assert quota.remaining == 600
    assert quota.observed(900, 59, now=1).remaining == 600
    assert quota.spent(100, now=100).remaining == 900
    assert quota.observed(800, 60, now=100).remaining == 800


def test_before_the_first_answer_nothing_is_known() -> None:
    """Nothing waits and nothing is counted; a cost above the limit is admitted when the window is fresh."""
    assert Quota(0.5).pause(10, now=0) == 0
    assert Quota(0.5).spent(10, now=0).remaining is None
    assert Quota(0.5).observed(100, 60, now=0).pause(1000, now=0) == 0


# Resources a second by batches at once, 1 to 8: a Medplum 5.1.13 on two cores, one far away, a cluster, one core.
SERVERS = {
    "two cores": (135, 150, 190, 226, 215, 205, 195, 184),
    "far away": (60, 120, 180, 226, 226, 226, 226, 226),
    "cluster": (130, 260, 390, 520, 650, 780, 910, 1040),
    "one core": (100, 100, 100, 100, 100, 100, 100, 100),
    "conflicts": (120, 100, 80, 70, 60, 50, 40, 30),
}


@pytest.mark.parametrize("server", SERVERS)
def test_concurrency_finds_what_the_server_takes(server: str) -> None:
    """Within 200 batches it writes nearly as fast as that server can, whatever shape its curve has."""
    curve = SERVERS[server]
    state, seconds = Concurrency(8), 0.0
    for number in range(400):
        speed = curve[state.limit - 1]
        seconds += 1 / speed if number >= 200 else 0.0
        state = state.finished(speed)
    assert 200 / seconds > 0.93 * max(curve)


def test_one_more_at_once_takes_a_whole_round_of_batches() -> None:
    """A single quick batch proves nothing."""
    state = Concurrency(8, allowed=2).finished(10)
    assert state.limit == 2
    assert state.finished(10).limit == 3


def test_a_server_that_pushes_back_gets_fewer_at_once_but_never_none() -> None:
    """And there are never more than the maximum at once."""
    state = Concurrency(4, allowed=4).pushed_back()
    assert state.limit == 2
    for _ in range(20):
        state = state.pushed_back()
    assert state.limit == 1
    for speed in range(10, 200):
        state = state.finished(speed)
    assert state.limit == 4
