"""Referenced resources are read once; but one that was not requested or was refused is tried again later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Switches
from tests.bulk_sync.test_named_faults import one, small
from tests.bulk_sync.world import World, observation, patient

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

LOCATION: Json = {"resourceType": "Location", "id": "l1", "name": "Sample"}
ENCOUNTER: Json = {
    "resourceType": "Encounter",
    "id": "e1",
    "status": "finished",
    "class": {"code": "AMB"},
    "subject": {"reference": "Patient/p1"},
    "location": [{"location": {"reference": "Location/l1"}}],
}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[World]:
    """An Encounter at a Location that is not exported."""
    with small(patient("p1"), ENCOUNTER, LOCATION, folder=tmp_path) as made:
        made.settings["PF_RESOURCE_TYPES"] = "Patient,Encounter"
        yield made


def grant(both: World, switches: Switches) -> None:
    """What the practice grants from now on."""
    both.source.switches = both.source.desk.switches = switches


def is_there(both: World) -> bool:
    """True if the Encounter refers to the Location."""
    place = one(both, "Encounter", "e1")["location"][0]["location"]
    return "reference" in place and "l1" in both.by_source_id("Location")


def test_a_type_that_was_left_out_is_read_when_it_is_added(both: World) -> None:
    """PF_HYDRATE was false."""
    both.run(hydrate=False)
    assert not is_there(both)
    both.run()
    assert is_there(both)


def test_a_refused_resource_is_read_once_the_rights_are_granted(both: World) -> None:
    """The practice grants the type later."""
    grant(both, Switches.general(types=("Patient", "Encounter")))
    both.run()
    assert not is_there(both)
    grant(both, Switches.general())
    both.run(types=("Patient", "Encounter", "Goal"))
    assert is_there(both)


def test_a_resource_that_was_once_refused_is_requested_again_by_a_full_run(both: World) -> None:
    """No other permission changes; otherwise its reference would wait forever."""
    both.source.faults.add("server_error", status=403, method="GET", path="/Location/l1")
    both.run()
    both.source.faults.clear()
    both.run()
    assert not is_there(both)
    both.run(Options(full=True))
    assert is_there(both)


def test_a_resource_that_the_source_lacks_is_requested_once(both: World) -> None:
    """A run with nothing new asks nothing."""
    both.source.source.delete("Location", "l1", at=both.source.now())
    both.run()
    before = len(both.source.requests)
    both.run()
    assert not [each for each in both.source.requests[before:] if "/Location/" in each.path]


@pytest.mark.parametrize("how", ["full", "a week later"])
def test_a_type_that_is_granted_later_is_imported(how: str, tmp_path: Path) -> None:
    """A refused type is requested again by a full run or after a week, and not each time."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as made:
        made.settings["PF_RESOURCE_TYPES"] = "Patient,Observation"
        grant(made, Switches.general(types=("Patient", "Encounter")))
        assert made.run().refused_types == ("Observation",)
        grant(made, Switches.general())
        made.run()
        assert not made.by_source_id("Observation")
        later = time.time() + (8 * 24 * 3600 if how == "a week later" else 0)
        within = Surroundings(place=str(tmp_path), sleep=made.sleep, timer=made.timer, clock=lambda: later)
        sync = made.sync(within=within)
        state = sync.run(Options(full=how == "full"))
        sync.map.close()
        assert state.refused_types == ()
        assert set(made.by_source_id("Observation")) == {"o1"}


@pytest.fixture
def many(tmp_path: Path) -> Iterator[World]:
    """Encounters at many Locations that are not exported."""
    places = [LOCATION | {"id": f"l{number:02}"} for number in range(30)]
    visits = [
        ENCOUNTER | {"id": f"e{number}", "location": [{"location": {"reference": f"Location/l{number:02}"}}]}
        for number in range(30)
    ]
    with small(patient("p1"), *visits, *places, folder=tmp_path) as made:
        made.settings["PF_RESOURCE_TYPES"] = "Patient,Encounter"
        yield made


def test_one_refused_resource_does_not_block_the_others(many: World) -> None:
    """The source shows all Locations but one."""
    many.source.faults.add("server_error", status=403, method="GET", path="/Location/l00")
    many.run()
    assert len(many.by_source_id("Location")) == 29


def test_a_type_that_is_refused_is_tried_three_times(many: World) -> None:
    """Not once for each reference."""
    many.source.faults.add("server_error", status=403, method="GET", path="/Location/l")
    many.run()
    assert len([each for each in many.source.requests if "/Location/" in each.path]) == 3


def test_a_source_that_is_down_is_not_tried_for_each(many: World) -> None:
    """The next run requests all of them."""
    many.source.faults.add("server_error", status=503, method="GET", path="/Location/l")
    many.run()
    assert sum(many.waited) < 120
    many.source.faults.clear()
    many.run()
    assert len(many.by_source_id("Location")) == 30


def test_a_patient_who_is_not_in_the_group_is_not_copied(tmp_path: Path) -> None:
    """Even if a member links to them and the source allows the read; once they are a member, the link is there."""
    linked = patient("p1", link=[{"type": "seealso", "other": {"reference": "Patient/p2"}}])
    with small(linked, patient("p2"), folder=tmp_path) as both:
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1"}
        assert "reference" not in one(both, "Patient", "p1")["link"][0]["other"]
        both.source.source.add_member("p2", at=both.source.now())
        both.run()
        reference = f"Patient/{one(both, 'Patient', 'p2')['id']}"
        assert one(both, "Patient", "p1")["link"][0]["other"]["reference"] == reference


def test_a_type_that_the_login_may_not_read_in_medplum_is_not_read_from_the_source(both: World) -> None:
    """It could not be written: its references stay logical, and the run is complete."""
    both.medplum.faults.add("server_error", status=403, method="GET", path="/Location")
    state = both.run()
    assert state.run is not None
    assert not [each for each in both.source.requests if "/Location/" in each.path]
    assert state.run.phase == "done"
    assert "Location" not in state.run.counts
