"""The time stamps never move past data that was not requested, and every new patient's history arrives."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.plan import next_stamps
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Switches
from tests.bulk_sync.test_named_faults import change, small
from tests.bulk_sync.world import observation, patient

NEW = (patient("p1"), patient("p2"), observation("o2", "Patient/p2"))


@pytest.mark.parametrize("options", [Options(types=("Patient",)), Options(since="2025-01-01T00:00:00Z")])
def test_a_run_that_asks_for_less_leaves_the_newcomers_new(options: Options, tmp_path: Path) -> None:
    """For a patient who joined, the next run imports what this run did not request."""
    with small(*NEW, folder=tmp_path) as both:
        both.run()
        both.source.source.add_member("p2", at=both.source.now())
        both.run(options)
        both.run()
        assert set(both.by_source_id("Observation")) == {"o2"}


def test_a_moment_later_than_the_stamp_leaves_the_stamp(tmp_path: Path) -> None:
    """Changes between the two were not requested, and come with the next run."""
    with small(patient("p1"), folder=tmp_path) as both:
        before = both.run().since
        change(both, observation("o1"))
        moment = both.source.now() + timedelta(milliseconds=1)
        state = both.run(Options(since=moment.isoformat()))
        assert state.since == before
        both.run()
        assert set(both.by_source_id("Observation")) == {"o1"}


def test_a_moment_before_the_stamp_moves_it() -> None:
    """Everything since then was requested."""
    state = SyncState(since={"g": {"A": "2024-01-02T00:00:00+01:00", "B": "2024-01-02T00:00:00Z"}})
    job = Job("group", ("A", "B"), "g", since="2024-01-01T23:30:00Z", transaction_time="2024-02-01T00:00:00Z")
    stamps = next_stamps(state, Run("r", 0.0, jobs=(job,)))
    assert stamps == {"g": {"A": "2024-01-02T00:00:00+01:00", "B": "2024-02-01T00:00:00Z"}}


def test_a_type_removed_from_the_settings_no_longer_holds_back_the_time_of_the_last_sync(tmp_path: Path) -> None:
    """Its stamps stay, should it be synced again."""
    with small(patient("p1"), members=("p1",), folder=tmp_path) as both:
        both.source.source.groups["g2"] = dict(both.source.source.groups["g1"])
        before = both.run(types=("Patient", "Observation"), group_ids=("g1", "g2")).last_sync_time
        state = both.run(types=("Patient",), group_ids=("g1",))
        assert state.last_sync_time == state.since["g1"]["Patient"] != before
        assert before in {state.since["g1"]["Observation"], state.since["g2"]["Patient"]}


@pytest.mark.parametrize("level", ["search", "auto"])
def test_a_type_that_is_new_to_a_search_gets_its_stamp(level: str, tmp_path: Path) -> None:
    """The type was searched for every patient, not only for new ones: the next run asks for changes."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        if level == "auto":
            both.source.faults.add("server_error", status=404, method="GET", path="$export")
        both.run(level=level, types=("Patient",))
        state = both.run(level=level, types=("Patient", "Observation"))
        assert set(state.since["g1"]) == {"Patient", "Observation"}


def test_a_newcomers_history_includes_a_type_that_cannot_be_searched(tmp_path: Path) -> None:
    """A type that the search does not cover is exported in full for the new patient; a search run reports the gap."""
    history = {
        "resourceType": "FamilyMemberHistory",
        "id": "f2",
        "status": "completed",
        "patient": {"reference": "Patient/p2"},
        "relationship": {"text": "mother"},
    }
    shape = Switches.general(types=("Patient", "FamilyMemberHistory"))
    with small(patient("p1"), patient("p2"), history, switches=shape, folder=tmp_path) as both:
        both.settings["PF_RESOURCE_TYPES"] = "Patient,FamilyMemberHistory"
        both.run()
        both.source.source.add_member("p2", at=both.source.now())
        both.run()
        state = both.run()
        assert set(both.by_source_id("FamilyMemberHistory")) == {"f2"}
        assert state.run is not None
        assert all(job.since for job in state.run.jobs)
        state = both.run(level="search")
        assert state.run is not None
        assert ["FamilyMemberHistory" in note for note in state.run.notes] == [True]


def lab(source_id: str, category: str) -> Json:
    """An Observation of a category."""
    system = "http://terminology.hl7.org/CodeSystem/observation-category"
    return observation(source_id, category=[{"coding": [{"system": system, "code": category}]}])


FILTER = ("Observation?category=laboratory",)


def test_a_resource_that_a_new_filter_includes_is_imported_with_its_history(tmp_path: Path) -> None:
    """It did not change since, and was never requested; other types and later runs request changes."""
    with small(patient("p1"), lab("o1", "laboratory"), lab("o2", "vital-signs"), folder=tmp_path) as both:
        both.run(type_filters=FILTER)
        assert set(both.by_source_id("Observation")) == {"o1"}
        state = both.run()
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}
        assert state.run is not None
        assert {job.types: bool(job.since) for job in state.run.jobs}[("Observation",)] is False
        state = both.run()
        assert state.run is not None
        assert all(job.since for job in state.run.jobs)


def test_a_resource_that_a_filter_leaves_out_is_not_deleted(tmp_path: Path) -> None:
    """A reconcile does not see it, and the source does not allow single reads of it."""
    shape = Switches.general(deleted=False)
    with small(
        patient("p1"), lab("o1", "laboratory"), lab("o2", "vital-signs"), switches=shape, folder=tmp_path
    ) as both:
        both.run()
        both.source.faults.add("server_error", status=403, method="GET", path="/Observation/o")
        both.run(Options(reconcile=True), type_filters=FILTER, max_delete_share=1.0)
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}
