"""Whatever happens at the source and on the way, in whatever order: after a quiet run Medplum is as the source is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bot_layer.errors import TransientError
from medplum_sandbox.practice_fusion import Source, Switches
from tests.bulk_sync.world import (
    World,
    assert_adds_up,
    assert_exact,
    observation,
    patient,
    run_as_bot,
    waiting_in_vain,
    world,
)

THEN = datetime(2024, 1, 1, tzinfo=UTC)
NUMBERS = st.integers(0, 5)
ADD = st.tuples(st.just("add"), NUMBERS, NUMBERS, st.sampled_from(["final", "amended", "corrected"]))
DROP = st.tuples(st.just("drop"), NUMBERS)
RUN = st.tuples(st.just("run"), st.integers(0, 10_000), st.sampled_from([0.0, 0.2]))
HISTORIES = st.lists(st.one_of(ADD, ADD, DROP, RUN), max_size=10)


def happen(both: World, event: tuple[Any, ...]) -> None:
    """One event of a history."""
    source = both.source.source
    now = both.source.now()
    if event[0] == "add":
        _, number, other, status = event
        members = [{"reference": f"Observation/o{other}"}] if other != number else []
        source.add(observation(f"o{number}", status=status, hasMember=members), at=now)
    elif event[0] == "drop":
        name = f"o{event[1]}"
        pointed = {
            member["reference"] for each in source.resources("Observation") for member in each.get("hasMember", [])
        }
        if source.get("Observation", name) and f"Observation/{name}" not in pointed:
            source.delete("Observation", name, at=now)
    else:
        share = event[2]
        for kind in ("conflict", "server_error", "reset_after_write"):
            both.medplum.faults.add(kind, share=share)
        both.source.faults.add("broken_download", share=share)
        try:
            assert_adds_up(both.run())
        except TransientError:
            pass  # the next run continues
        finally:
            both.medplum.faults.clear()
            both.source.faults.clear()


@pytest.mark.one_login
@pytest.mark.no_cover  # runs the same code paths repeatedly
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(HISTORIES, st.booleans(), st.booleans())
@example(  # a new resource refers to one that the same export reports as deleted
    history=[("add", 1, 0, "final"), ("run", 0, 0.0), ("drop", 1), ("add", 0, 1, "final")], ranges=False, bot=False
)
@example(  # deleted and created again between two runs
    history=[("add", 1, 1, "final"), ("run", 0, 0.0), ("drop", 1), ("add", 1, 1, "amended")], ranges=False, bot=True
)
def test_after_any_history_medplum_equals_the_source(history: list[tuple[Any, ...]], ranges: bool, bot: bool) -> None:
    """Additions, changes, deletions, cycles, references to later or missing targets, and faults of both sides."""
    run_as_bot(bot=bot)
    source = Source()
    source.add(patient("p1"), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    with world(source, switches=Switches.general(polls=0, part_size=2, ranges=ranges)) as both:
        for event in history:
            happen(both, event)
        both.run()
        both.run()
        assert_exact(both)
        assert not waiting_in_vain(both)
