"""A reconcile deletes only what is certain to be deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.errors import BotError, ConfigError
from medplum_sandbox.practice_fusion import Source, Switches
from tests.bulk_sync.world import World, observation, patient, world

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

THEN = datetime(2024, 1, 1, tzinfo=UTC)
MANY = 20


@pytest.fixture
def both(tmp_path: Path) -> Iterator[World]:
    """Many Observations in Medplum; the source reports no deletions and allows no reads of single resources."""
    source = Source()
    source.add(patient("p1"), at=THEN)
    for number in range(MANY):
        source.add(observation(f"o{number}"), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    with world(source, switches=Switches.general(deleted=False, part_size=10), folder=tmp_path / "one") as made:
        made.run()
        for path in ("/Observation/o", "/Patient/p"):
            made.source.faults.add("server_error", status=403, method="GET", path=path)
        yield made


def half_a_reconcile(both: World, folder: Path | None) -> None:
    """A step of a reconcile that ends when the Patients were read, and nothing else was."""
    stop = threading.Event()

    def progress(kind: str, name: str, _done: int, _total: int | None) -> None:
        if (kind, name) == ("file", "Patient"):
            stop.set()

    within = Surroundings(place=str(folder or ""), sleep=both.sleep, timer=both.timer, progress=progress, stop=stop)
    sync = both.sync(within=within, max_delete_share=1.0)
    state = sync.run(Options(reconcile=True))
    sync.map.close()
    assert state.run is not None
    assert not state.run.over


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", ["another", "none"])
def test_a_reconcile_resumed_with_another_map_deletes_nothing(
    both: World, tmp_path: Path, first: bool, second: str
) -> None:
    """The other map records what was seen: without it, all of that would look deleted."""
    half_a_reconcile(both, tmp_path / "one" if first else None)
    both.folder = tmp_path / "two" if second == "another" else None
    with pytest.raises(ConfigError) as caught:
        both.run(max_delete_share=1.0)
    assert caught.value.code == "reconcile-lost-its-map"
    assert both.by_source_id("Patient")
    # The run is over, its export given back, and the next one is an ordinary one.
    assert both.source.jobs == {}
    state = both.run()
    assert state.run is not None
    assert state.run.phase == "done"
    assert both.by_source_id("Patient")


def test_a_reconcile_resumed_with_its_map_carries_out_deletions(both: World) -> None:
    """In two steps as in one."""
    both.source.source.delete("Observation", "o1", at=both.source.now())
    half_a_reconcile(both, both.folder)
    state = both.run(max_delete_share=1.0)
    assert state.run is not None
    assert state.run.deleted == 1
    assert set(both.by_source_id("Observation")) == {f"o{number}" for number in range(MANY)} - {"o1"}


@pytest.mark.parametrize("trouble", ["bad line", "errors"])
def test_a_resource_missing_from_an_export_with_errors_is_not_taken_for_deleted(both: World, trouble: str) -> None:
    """It may stand in the line that could not be read, or among what the source could not export."""
    both.source.source.delete("Observation", "o1", at=both.source.now())
    if trouble == "bad line":
        both.source.faults.add("bad_line", times=1)
    else:
        both.source.switches = Switches.general(deleted=False, outcomes=("error",))
    state = both.run(Options(reconcile=True), max_delete_share=1.0)
    assert state.run is not None
    assert state.run.bad_lines or state.run.not_exported
    assert state.run.deleted == 0
    assert len(both.by_source_id("Observation")) == MANY


def test_a_search_by_patient_does_not_make_other_types_look_deleted(tmp_path: Path) -> None:
    """Organizations are read when a resource refers to them, and no search by patient returns them."""
    source = Source()
    source.add(patient("p1", managingOrganization={"reference": "Organization/a"}), at=THEN)
    source.add({"resourceType": "Organization", "id": "a", "name": "Sample"}, at=THEN)
    source.groups["g1"] = {"p1": THEN}
    with world(source, folder=tmp_path) as both:
        both.run(level="search")
        assert set(both.by_source_id("Organization")) == {"a"}
        both.source.faults.add("server_error", status=403, method="GET", path="/Organization/a")
        state = both.run(Options(reconcile=True), level="search", max_delete_share=1.0)
        assert state.run is not None
        assert state.run.deleted == 0
        assert set(both.by_source_id("Organization")) == {"a"}


def test_a_reconcile_may_take_longer_than_a_lease(tmp_path: Path) -> None:
    """While the source is asked for each missing resource, nothing is written; no other process took the lease."""
    source = Source()
    for number in range(MANY):
        source.add(observation(f"o{number}"), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    with world(source, switches=Switches.general(deleted=False), folder=tmp_path) as both:
        both.run()
        for number in range(3):
            source.delete("Observation", f"o{number}", at=both.source.now())
        both.source.faults.add("slow", method="GET", path="/Observation/o", seconds=0.2)
        state = both.run(Options(reconcile=True), lease_seconds=0.3)
        assert state.run is not None
        assert state.run.deleted == 3


def test_a_reconcile_whose_time_is_over_resumes_after_its_last_request(both: World) -> None:
    """Each step resumes where the last one stopped: a resource is not requested twice."""
    both.source.faults.clear()
    for number in range(3):
        both.source.source.delete("Observation", f"o{number}", at=both.source.now())
    both.source.source.remove_member("p1")
    both.source.source.add_member("p2", at=both.source.now())
    asked: list[str] = []
    steps = 0
    for _ in range(40):
        steps += 1
        stop = threading.Event()

        def count(method: str, path: str, stop: threading.Event = stop) -> bool:
            if method == "GET" and "/Observation/o" in path:
                asked.append(path)
                stop.set()
            return False

        both.source.faults.clear()
        both.source.faults.add("slow", when=count)
        within = Surroundings(place=str(both.folder), sleep=both.sleep, timer=both.timer, stop=stop)
        sync = both.sync(within=within, max_delete_share=1.0)
        state = sync.run(Options(reconcile=True))
        sync.map.close()
        assert state.run is not None
        if state.run.over:
            break
    assert steps > 3
    assert state.run is not None
    assert state.run.deleted == 3
    assert len(asked) == len(set(asked)) == MANY


def test_a_source_that_is_down_is_not_asked_for_each_resource(both: World) -> None:
    """A resource without an answer is not considered deleted; the next reconcile asks again."""
    both.source.faults.clear()
    both.source.source.remove_member("p1")
    both.source.source.add_member("p2", at=both.source.now())
    both.source.faults.add("server_error", status=503, method="GET", path="/Observation/o")
    state = both.run(Options(reconcile=True), max_delete_share=1.0)
    assert state.run is not None
    assert state.run.deleted == 0
    assert sum(both.waited) < 120
    assert len(both.by_source_id("Observation")) == MANY


@pytest.mark.parametrize("answer", [400, 404])
def test_a_login_that_is_refused_meanwhile_makes_nothing_look_deleted(both: World, answer: int) -> None:
    """The practice withdraws the app, or its token endpoint moves: that says nothing about deletions."""
    both.source.faults.clear()
    both.source.source.remove_member("p1")
    both.source.source.add_member("p2", at=both.source.now())
    asked = "/Observation/o"
    both.source.faults.add("server_error", status=401, method="GET", path=asked)
    both.source.faults.add(
        "server_error",
        status=answer,
        path="/token",
        when=lambda _method, _path: any(asked in each.path for each in both.source.requests),
    )
    with pytest.raises(BotError):
        both.run(Options(reconcile=True), max_delete_share=1.0)
    assert len(both.by_source_id("Observation")) == MANY


def test_an_option_that_a_resumed_run_ignores_is_reported(both: World) -> None:
    """The caller must not mistake the end of an older run for the requested reconcile."""
    both.source.faults.clear()
    both.source.source.change("Patient", "p1", {"gender": "other"}, at=both.source.now())
    both.source.faults.add("broken_download")
    with pytest.raises(BotError):
        both.run()
    both.source.faults.clear()
    both.source.source.delete("Observation", "o1", at=both.source.now())
    state = both.run(Options(reconcile=True))
    assert state.run is not None
    assert (state.run.deleted, state.run.notes) == (
        0,
        ("this ended a run that was broken off; call again for: reconcile",),
    )
    state = both.run(Options(reconcile=True))
    assert state.run is not None
    assert (state.run.deleted, state.run.notes) == (1, ())
