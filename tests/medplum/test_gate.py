"""How many batches are admitted at once."""

from __future__ import annotations

from contextlib import ExitStack

from bot_layer.medplum.gate import Concurrency, Gate

BATCH = 100


def allowed(gate: Gate) -> int:
    """What the gate has learnt."""
    return gate._state.limit


def passed(gate: Gate, clock: list[float], *, batches: int, seconds: float, size: int = BATCH) -> None:
    """So many batches at once, each of which takes so long."""
    with ExitStack() as inside:
        for _ in range(batches):
            inside.enter_context(gate.turn(size))
        clock[0] += seconds


def test_a_full_gate_opens_further_while_that_makes_it_faster() -> None:
    """And closes again if the server is pushed back."""
    clock = [0.0]
    gate = Gate(Concurrency(8, allowed=2), lambda: clock[0])
    for _ in range(2):
        passed(gate, clock, batches=2, seconds=1)
    assert allowed(gate) > 2
    before = allowed(gate)
    with gate.turn(BATCH) as turn:
        turn.is_slower = True
    assert allowed(gate) < before


def test_a_gate_that_is_not_full_learns_nothing() -> None:
    """At the end of a level there is little to send: that the sum is slower then does not mean that the server is."""
    clock = [0.0]
    gate = Gate(Concurrency(8, allowed=4), lambda: clock[0])
    passed(gate, clock, batches=4, seconds=1)
    before = allowed(gate)
    passed(gate, clock, batches=1, seconds=1)
    assert allowed(gate) == before


def test_a_small_batch_says_nothing_about_the_speed() -> None:
    """It takes nearly as long as a large one."""
    clock = [0.0]
    gate = Gate(Concurrency(2, allowed=1), lambda: clock[0])
    passed(gate, clock, batches=1, seconds=1, size=3)
    assert allowed(gate) == 1
