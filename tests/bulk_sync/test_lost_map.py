"""A lost map makes a run slower, never wrong, wherever the run is interrupted."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import requests

from bot_layer.bulk_sync.options import Options, Surroundings
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches
from tests.bulk_sync.test_named_faults import change, one, practice, small
from tests.bulk_sync.world import World, observation, patient

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths


def broken_off(both: World, at: str = "") -> None:
    """A run that stops at its first progress, or at the first progress of a name."""
    stop = threading.Event()

    def progress(_kind: str, name: str, _done: int, _total: int | None) -> None:
        if name == at or not at:
            stop.set()

    within = Surroundings(place=str(both.folder), sleep=both.sleep, timer=both.timer, stop=stop, progress=progress)
    sync = both.sync(within=within)
    state = sync.run(Options())
    sync.map.close()
    assert state.run is not None
    assert not state.run.over


def test_a_resumed_run_learns_which_references_wait(tmp_path: Path) -> None:
    """The one that found the map lost broke off before it had asked Medplum which references wait."""
    waiting = observation("o1", derivedFrom=[{"reference": "Observation/o9"}])
    with small(patient("p1"), waiting, folder=tmp_path / "one") as both:
        both.run()
        assert "reference" not in one(both, "Observation", "o1")["derivedFrom"][0]
        both.folder = tmp_path / "two"
        change(both, observation("o9"))
        broken_off(both)
        both.run()
        assert "reference" in one(both, "Observation", "o1")["derivedFrom"][0]


def test_a_target_that_was_written_before_the_map_was_lost_is_looked_up(tmp_path: Path) -> None:
    """The target was written in a step whose map is lost: only Medplum knows it."""
    waiting = observation("o1", derivedFrom=[{"reference": "Observation/o9"}])
    with small(patient("p1"), waiting, folder=tmp_path / "one") as both:
        both.run()
        both.folder = tmp_path / "two"
        change(both, observation("o9"))
        broken_off(both, at="Observation")
        assert one(both, "Observation", "o9")
        both.folder = tmp_path / "three"
        both.run()
        assert "reference" in one(both, "Observation", "o1")["derivedFrom"][0]


def test_a_type_that_is_no_longer_synced_is_searched_too(tmp_path: Path) -> None:
    """Its references wait for the others as before."""
    procedure = {
        "resourceType": "Procedure",
        "id": "x1",
        "status": "completed",
        "subject": {"reference": "Patient/p1"},
        "reasonReference": [{"reference": "Observation/o9"}],
    }
    with small(patient("p1"), procedure, folder=tmp_path / "one") as both:
        both.run()
        both.folder = tmp_path / "two"
        change(both, observation("o9"))
        both.run(types=("Patient", "Observation"))
        assert "reference" in one(both, "Procedure", "x1")["reasonReference"][0]


def test_a_medplum_that_came_back_from_a_backup_gets_what_it_lost(tmp_path: Path) -> None:
    """The map contains later writes: the sync believed that they were unchanged."""
    with small(patient("p1"), folder=tmp_path) as both:
        both.run()
        (task,) = both.stored("Task")
        change(both, observation("o1"))
        both.run()
        at = f"{both.medplum.base_url}/fhir/R4/Observation/{one(both, 'Observation', 'o1')['id']}"
        assert requests.delete(at, headers=both.headers(), timeout=240).status_code == 200
        both.put(task)
        both.run()
        assert set(both.by_source_id("Observation")) == {"o1"}


def test_a_map_that_came_back_from_a_backup_loses_no_failure(tmp_path: Path) -> None:
    """It does not know what Medplum refused later: formerly the Binary with those failures was emptied."""
    with small(patient("p1"), folder=tmp_path / "one") as both:
        both.run()
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        change(both, observation("o1", shoeSize=1))
        failures = both.run().failures
        both.folder = tmp_path / "two"
        assert failures
        assert both.run().failures == failures


def test_references_that_wait_in_another_practice_are_left_alone(tmp_path: Path) -> None:
    """Its ids may be the same: its patient's Observation pointed to another patient's."""
    waiting = observation("o1", derivedFrom=[{"reference": "Observation/o9"}])
    theirs = practice(patient("p2"), observation("o9", "Patient/p2"), members=("p2",))
    with (
        small(patient("p1"), waiting, folder=tmp_path / "one") as both,
        PracticeFusionSandbox(theirs, switches=Switches.general()) as elsewhere,
    ):
        both.run()
        other = World(both.medplum, elsewhere, tmp_path / "two")
        other.run()
        other.folder = tmp_path / "three"
        other.run()
        assert "reference" not in one(both, "Observation", "o1")["derivedFrom"][0]
