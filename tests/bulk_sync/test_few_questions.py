"""Medplum is asked no more than it must be, and never less."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_layer.bulk_sync.engine import Options
from bot_layer.errors import TransientError
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.world import World, assert_exact, counts, world

pytestmark = pytest.mark.no_cover  # whole runs, whose requests are counted


def look_ups(both: World, kind: str) -> int:
    """Searches of a type that name identifiers."""
    return sum(each.path == f"/fhir/R4/{kind}" and "identifier=" in each.query for each in both.medplum.requests)


def test_what_an_empty_medplum_cannot_hold_is_not_looked_up(tmp_path: Path) -> None:
    """A first run asks once whether a type is there at all; then what the map does not know is new."""
    with world(generate(21, 3), folder=tmp_path) as both:
        both.run()
        assert_exact(both)
        # No reference of a Device has to wait for its target, so that none is looked up for repair either.
        assert both.source.source.count("Device") > 0
        assert look_ups(both, "Device") == 0


def test_a_type_that_medplum_holds_already_is_looked_up(tmp_path: Path) -> None:
    """Without its map a later run begins by itself too; it must not take Medplum for empty."""
    with world(generate(21, 2), folder=tmp_path) as both:
        both.run()
        both.folder = None
        before = look_ups(both, "Device")
        state = both.run(Options(full=True))
        assert look_ups(both, "Device") > before
        assert counts(state)["created"] == 0
        assert_exact(both)


def test_a_run_that_was_broken_off_looks_everything_up(tmp_path: Path) -> None:
    """A write of the process that broke off may still be under way: its successor takes nothing for new."""
    with world(generate(21, 2), folder=tmp_path) as both:
        sync = both.sync()
        sync.stop.set()
        state = sync.run(Options())
        sync.map.close()
        assert state.run is not None
        assert not state.run.over
        both.run()
        assert look_ups(both, "Device") > 0
        assert_exact(both)


def test_a_run_that_this_process_takes_up_again_looks_everything_up(tmp_path: Path) -> None:
    """What it sent last may still be under way, as another process' may."""
    with world(generate(21, 2), folder=tmp_path) as both:
        sync = both.sync()
        both.source.faults.add("server_error", status=503, method="GET", path="/Practitioner/")
        with pytest.raises(TransientError):
            sync.run(Options())
        both.source.faults.clear()
        state = sync.run(Options())
        sync.map.close()
        assert state.run is not None
        assert state.run.over
        assert look_ups(both, "Device") > 0
        assert_exact(both)
