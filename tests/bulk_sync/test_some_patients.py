"""Runs of some patients, parts of resources, and Groups that can't be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.errors import InputError
from tests.bulk_sync.export_server import ExportServer, Reply, ndjson, practice
from tests.bulk_sync.test_other_sources import always, ended, imported, stamped
from tests.bulk_sync.world import World, observation, patient

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

ONE = Options(patients=("p1",))


@pytest.fixture
def synced() -> Iterator[tuple[World, ExportServer]]:
    """A source of two patients after its first run; both have changed since."""
    with practice() as (both, source):
        both.run()
        source.resources = [
            patient("p1", gender="male"),
            patient("p2", gender="male"),
            observation("o1", status="amended"),
            observation("o2", "Patient/p2", status="amended"),
        ]
        source.asked.clear()
        yield both, source


def status_of(both: World, source_id: str) -> str:
    """The status of an Observation in Medplum."""
    (stored,) = both.by_source_id("Observation")[source_id]
    return str(stored["status"])


def test_a_run_of_some_patients_leaves_everything_else_as_it_was(synced: tuple[World, ExportServer]) -> None:
    """Only these patients are requested, without _since; no stamp moves, the next run stays due, nothing is deleted."""
    both, source = synced
    before = both.sync().store.load()
    state = both.run(ONE)
    assert ended(state).phase == "done"
    (kickoff,) = source.kickoffs()
    assert kickoff["patient"] == ["Patient/p1"]
    assert "_since" not in kickoff
    assert (status_of(both, "o1"), status_of(both, "o2")) == ("amended", "final")
    assert (state.since, state.members, state.last_success) == (before.since, before.members, before.last_success)
    assert imported(both) == {"p1", "p2", "o1", "o2"}


def test_a_source_that_exports_others_too_changes_nothing_of_them(synced: tuple[World, ExportServer]) -> None:
    """Some ignore the parameter."""
    both, source = synced
    source.on("/file/", lambda asked, _: Reply(200, ndjson(*source._of(asked.path.split("/")[3]))))
    run = ended(both.run(ONE))
    assert (status_of(both, "o1"), status_of(both, "o2")) == ("amended", "final")
    assert "1 x Patient of other patients in a file of Patient: not asked for, not written" in run.notes


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_source_that_takes_no_such_parameter_is_searched(status: int, synced: tuple[World, ExportServer]) -> None:
    """The whole Group is never requested instead."""
    both, source = synced
    source.on("/fhir/Group/g1/$export", always(status=status, headers={}), "POST")
    assert ended(both.run(ONE)).phase == "done"
    assert {each.method for each in source.asked if each.path.endswith("$export")} == {"POST"}
    assert (status_of(both, "o1"), status_of(both, "o2")) == ("amended", "final")


def test_a_patient_outside_the_group_is_refused(synced: tuple[World, ExportServer]) -> None:
    """A requested Group is never widened; an invalid id, or a reconcile, is refused at once."""
    both, source = synced
    with pytest.raises(InputError) as caught:
        both.run(Options(patients=("p9",)))
    assert caught.value.code == "patient-not-in-group"
    assert source.kickoffs() == []
    with pytest.raises(InputError, match="ids"):
        Options(patients=("../x",))
    with pytest.raises(InputError, match="reconcile"):
        Options(patients=("p1",), reconcile=True)


def test_the_run_after_it_exports_what_changed_as_before(synced: tuple[World, ExportServer]) -> None:
    """The next run misses no patient because some patients were exported in between."""
    both, source = synced
    both.run(ONE)
    source.asked.clear()
    for each in source.resources:
        each["meta"] = {"lastUpdated": "2999-01-01T00:00:00Z"}
    both.run()
    assert "_since" in source.kickoffs()[0]
    assert status_of(both, "o2") == "amended"


def test_a_part_of_a_resource_never_replaces_the_whole_one() -> None:
    """A resource tagged SUBSETTED lacks elements: it is a bad line, and Medplum's version stays."""
    with practice() as (both, source):
        both.run()
        tag = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
        part = {"resourceType": "Patient", "id": "p1", "meta": {"tag": [tag]}}
        source.files["Patient"] = [ndjson(part)]
        run = ended(both.run(Options(full=True)))
        assert run.phase == "partial"
        assert "SUBSETTED" in run.bad_lines[0]
        assert both.by_source_id("Patient")["p1"][0]["name"] == [{"family": "Sample"}]


def test_a_newcomer_to_an_unreadable_group_is_imported_with_older_data() -> None:
    """Its patients are exported in full each time; where one is new, so is the rest. Otherwise only what changed."""
    with practice() as (both, source):
        source.on("/fhir/Group/", lambda asked, reply: Reply(403) if asked.path == "/fhir/Group/g1" else reply)
        everything = source.resources
        source.resources = everything[:1] + everything[2:3]
        assert ended(both.run()).phase == "done"
        assert imported(both) == {"p1", "o1"}
        source.asked.clear()
        both.run()
        since = {frozenset(each["_type"][0].split(",")): "_since" in each for each in source.kickoffs()}
        assert since == {frozenset({"Patient"}): False, frozenset({"Condition", "Observation"}): True}
        source.resources = everything
        assert ended(both.run()).phase == "done"
        assert imported(both) == {"p1", "p2", "o1", "o2"}
        source.asked.clear()
        state = both.run()
        assert [("_since" in each) for each in source.kickoffs()] == [False, True]
        assert stamped(state) == {"Patient", "Observation", "Condition"}
