"""Mistakes of other syncs, one test for each: named after the mistake, and failing where it is made.

The list comes from a review of an existing integration; the names keep the numbers of its points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.state.id_map import Failure
from bot_layer.errors import AuthError, BotError, ConfigError, PermanentError, ReviewNeeded
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Source, Switches, generate
from tests.bulk_sync.world import World, assert_exact, counts, observation, patient, world

THEN = datetime(2024, 1, 1, tzinfo=UTC)


def practice(*resources: Json, members: tuple[str, ...] = ("p1",)) -> Source:
    """A source with one Group."""
    source = Source()
    for each in resources:
        source.add(each, at=THEN)
    source.groups["g1"] = dict.fromkeys(members, THEN)
    return source


@contextmanager
def small(*resources: Json, members: tuple[str, ...] = ("p1",), **options: Any) -> Iterator[World]:
    """A source with these resources, and a Medplum."""
    with world(practice(*resources, members=members), **options) as both:
        yield both


def change(both: World, resource: Json) -> None:
    """The source changes a resource, or gets a new one, now."""
    both.source.source.add(resource, at=both.source.now())


def one(both: World, kind: str, source_id: str) -> Json:
    """The only resource in Medplum with this id of the source."""
    found = both.by_source_id(kind)[source_id]
    assert len(found) == 1
    return found[0]


# -- 1 References


def test_1_an_incremental_run_points_to_a_patient_that_it_did_not_export(tmp_path: Path) -> None:
    """An Observation that is exported without its Patient refers to the Patient of an earlier run."""
    with small(patient("p1"), folder=tmp_path) as both:
        both.run()
        change(both, observation("o1"))
        both.run()
        assert one(both, "Observation", "o1")["subject"]["reference"] == f"Patient/{one(both, 'Patient', 'p1')['id']}"


@pytest.mark.parametrize("folder", [True, False])
def test_1_every_reference_of_any_field_and_type_is_rewritten(folder: bool, tmp_path: Path) -> None:
    """Encounter, result, hasMember, partOf, location, contained, absolute and versioned: all are rewritten."""
    deep = observation(
        "o2",
        "Patient/p1/_history/3",
        encounter={"reference": "Encounter/e1"},
        hasMember=[{"reference": "Observation/o1"}],
        extension=[{"url": "https://x.example", "valueReference": {"reference": "Patient/p1"}}],
        contained=[{"resourceType": "Specimen", "id": "s", "subject": {"reference": "Patient/p1"}}],
        specimen={"reference": "#s"},
        note=[{"text": "Patient/p1", "authorReference": {"reference": "https://else.example/fhir/Patient/p1"}}],
    )
    encounter = {
        "resourceType": "Encounter",
        "id": "e1",
        "status": "finished",
        "class": {"code": "AMB"},
        "subject": {"reference": "Patient/p1"},
    }
    with small(patient("p1"), observation("o1"), encounter, deep, folder=tmp_path if folder else None) as both:
        both.run()
        stored = one(both, "Observation", "o2")
        person = f"Patient/{one(both, 'Patient', 'p1')['id']}"
        assert stored["subject"]["reference"] == person
        assert stored["extension"][0]["valueReference"]["reference"] == person
        assert stored["contained"][0]["subject"]["reference"] == person
        assert stored["encounter"]["reference"] == f"Encounter/{one(both, 'Encounter', 'e1')['id']}"
        assert stored["hasMember"][0]["reference"] == f"Observation/{one(both, 'Observation', 'o1')['id']}"
        assert stored["specimen"]["reference"] == "#s"
        assert stored["note"][0]["authorReference"]["reference"] == "https://else.example/fhir/Patient/p1"
        assert stored["note"][0]["text"] == "Patient/p1"


def test_1_a_cycle_is_closed() -> None:
    """Two resources that refer to each other do so in Medplum, whichever came first."""
    one_, other = observation("o1", derivedFrom=[{"reference": "Observation/o2"}]), observation("o2")
    other["derivedFrom"] = [{"reference": "Observation/o1"}]
    with small(patient("p1"), one_, other) as both:
        both.run()
        first, second = one(both, "Observation", "o1"), one(both, "Observation", "o2")
        assert first["derivedFrom"][0]["reference"] == f"Observation/{second['id']}"
        assert second["derivedFrom"][0]["reference"] == f"Observation/{first['id']}"
        assert not first["meta"].get("tag")


def test_1_a_missing_target_is_named_and_repaired_when_it_arrives(tmp_path: Path) -> None:
    """A missing target becomes a logical reference with its display; when it arrives, a real one; disk or none."""
    for folder in (tmp_path, None):
        with small(patient("p1"), observation("o1", "Patient/p9", encounter={}), folder=folder) as both:
            change(both, observation("o2", performer=[{"reference": "Practitioner/d1", "display": "Dr. Sample"}]))
            both.run()
            waiting = one(both, "Observation", "o2")["performer"][0]
            assert waiting["display"] == "Dr. Sample"
            assert waiting["identifier"]["value"] == "d1"
            assert "reference" not in waiting
            change(both, {"resourceType": "Practitioner", "id": "d1", "name": [{"family": "Sample"}]})
            change(both, observation("o3", performer=[{"reference": "Practitioner/d1"}]))
            both.run()
            doctor = one(both, "Practitioner", "d1")["id"]
            assert one(both, "Observation", "o2")["performer"][0]["reference"] == f"Practitioner/{doctor}"


# -- 2 Identity


def test_2_two_resources_with_one_foreign_identifier_stay_two() -> None:
    """Observations of one order share an accession number: only the source's id distinguishes them."""
    shared = [{"system": "https://lab.example/accession", "value": "A-1"}]
    with small(patient("p1"), *(observation(f"o{n}", identifier=shared) for n in range(5))) as both:
        both.run()
        assert len(both.by_source_id("Observation")) == 5


def test_2_same_patient_same_code_same_day_stay_two() -> None:
    """Nothing is matched by subject, code and date."""
    when = {"effectiveDateTime": "2024-05-01"}
    with small(patient("p1"), observation("o1", **when), observation("o2", **when)) as both:
        both.run()
        assert len(both.by_source_id("Observation")) == 2


def test_2_a_resource_without_an_id_is_reported_and_never_given_a_random_one() -> None:
    """It counts as failed; a second run makes no duplicate of it."""
    with small(patient("p1")) as both:
        loader = _loader(both)
        loaded = loader.load([_resource({"resourceType": "Observation", "status": "final"})])
        assert loaded.counts["Observation"] == {"seen": 1, "created": 0, "updated": 0, "unchanged": 0, "failed": 1}
        assert both.stored("Observation") == []


def test_a_kept_part_of_a_resource_is_not_written_by_a_retry(tmp_path: Path) -> None:
    """An earlier release may have kept one: the rule for what comes from the source holds for a retry too."""
    with small(patient("p1"), folder=tmp_path) as both:
        both.run()
        part = observation("o1", meta={"tag": [{"code": "SUBSETTED"}]})
        sync = both.sync()
        sync.map.record((), failures=[Failure(Key("Observation", "o1"), 400, "refused", orjson.dumps(part))])
        run = sync.run(Options(retry_failed=True)).run
        sync.map.close()
        assert run is not None
        assert run.counts["Observation"]["failed"] == 1
        assert both.stored("Observation") == []


def test_2_types_without_identifier_are_found_again_too() -> None:
    """Provenance is keyed by a tag: the second run finds it."""
    provenance = {
        "resourceType": "Provenance",
        "id": "v1",
        "recorded": "2024-01-01T00:00:00Z",
        "target": [{"reference": "Patient/p1"}],
        "agent": [{"who": {"display": "Sample"}}],
    }
    with small(patient("p1"), provenance) as both:
        both.run()
        state = both.run(Options(full=True))
        assert len(both.stored("Provenance")) == 1
        assert counts(state)["unchanged"] == 2


# -- 3 State


def test_3_what_medplum_refuses_is_kept_and_tried_again(tmp_path: Path) -> None:
    """A refused resource does not stop the run; it is kept with the server's text, and --retry-failed imports it."""
    for folder in (tmp_path, None):
        bad = observation("o1", shoeSize=1)
        with small(patient("p1"), bad, observation("o2"), folder=folder) as both:
            state = both.run()
            assert counts(state)["failed"] == 1
            assert counts(state)["created"] == 2
            sync = both.sync()
            sync.run(Options())
            kept = list(sync.map.failures())
            assert [each.key.id for each in kept] == ["o1"]
            assert "shoeSize" in kept[0].reason
            sync.map.close()
            change(both, observation("o1"))
            assert counts(both.run())["created"] == 1
            state = both.run(Options(retry_failed=True))
            assert counts(state)["seen"] == 0
            assert state.failures == ""


def test_3_the_time_stamp_stays_when_a_file_could_not_be_read() -> None:
    """lastSyncTime moves only when every file was handled; the next run starts at the old stamp."""
    with small(patient("p1"), observation("o1")) as both:
        both.source.faults.add("broken_download")
        with pytest.raises(BotError):
            both.run()
        assert both.sync().store.load().last_sync_time == ""
        both.source.faults.clear()
        both.run()
        assert_exact(both)


def test_3_the_time_stamp_is_the_sources_not_this_machines() -> None:
    """lastSyncTime is the manifest's transactionTime, in a Parameters resource in the Task."""
    with small(patient("p1")) as both:
        state = both.run()
        task = both.stored("Task")[0]
        parameters = task["contained"][0]["parameter"]
        stamp = next(each["valueDateTime"] for each in parameters if each["name"] == "lastSyncTime")
        assert stamp == state.last_sync_time
        exported = max(each.started for each in both.source.jobs.values()) if both.source.jobs else None
        assert exported is None or stamp
        assert {each["value"] for each in task["identifier"]} == {
            both.source.base_url,
            f"{both.source.base_url}/Group/g1",
        }


def test_3_a_type_added_later_is_fetched_with_its_history() -> None:
    """Stamps are kept for each type: a new type is exported in full, the others since the last run."""
    with small(patient("p1"), observation("o1")) as both:
        both.run(types=("Patient",))
        both.run(types=("Patient", "Observation"))
        assert set(both.by_source_id("Observation")) == {"o1"}


def test_3_a_patient_who_joins_the_group_is_fetched_with_the_history() -> None:
    """_since would return only changes: the old records of a patient who joins the Group are fetched in full."""
    with small(patient("p1"), patient("p2"), observation("o2", "Patient/p2"), members=("p1",)) as both:
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1"}
        both.source.source.add_member("p2", at=both.source.now())
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1", "p2"}
        assert set(both.by_source_id("Observation")) == {"o2"}


def test_3_a_run_since_a_moment_leaves_no_gap_behind() -> None:
    """``since`` is for one run: changes between the stored time stamp and that time come with the next run."""
    with small(patient("p1")) as both:
        before = both.run().last_sync_time
        moment = both.source.now()
        for name, seconds in (("o1", 0), ("o2", 2)):
            both.source.source.add(observation(name), at=moment + timedelta(seconds=seconds))
        between = (moment + timedelta(seconds=1)).isoformat()
        assert counts(both.run(Options(since=between)))["seen"] == 1
        assert both.sync().store.load().last_sync_time == before
        both.run()
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}


@pytest.mark.parametrize("options", [Options(since="2024-06-01T00:00:00Z"), Options(types=("Patient",))])
def test_3_a_patient_who_joins_before_a_narrow_run_keeps_the_history(options: Options) -> None:
    """A run of some types, or since a moment, does not make a newcomer known: the next one still fetches everything."""
    with small(patient("p1"), patient("p2"), observation("o2", "Patient/p2"), members=("p1",)) as both:
        both.run()
        both.source.source.add_member("p2", at=both.source.now())
        both.run(options)
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1", "p2"}
        assert set(both.by_source_id("Observation")) == {"o2"}


def test_3_a_type_added_to_a_search_is_fetched_in_full_once() -> None:
    """Its time stamp is kept like an export's."""
    with small(patient("p1"), observation("o1")) as both:
        both.run(level="search", types=("Patient",))
        assert counts(both.run(level="search", types=("Patient", "Observation")))["seen"] == 1
        assert counts(both.run(level="search", types=("Patient", "Observation")))["seen"] == 0


# -- 4 What the manifest says


@pytest.mark.parametrize(("how", "left"), [("delete", 0), ("mark", 1), ("ignore", 1)])
def test_4_deletions_of_the_manifest_are_carried_out(how: str, left: int) -> None:
    """A deleted file deletes, or marks, only what this sync imported."""
    with small(patient("p1"), observation("o1")) as both:
        both.run()
        both.source.source.delete("Observation", "o1", at=both.source.now())
        state = both.run(deletion=how)
        found = both.by_source_id("Observation")
        assert len(found) == left
        if how == "mark":
            assert found["o1"][0]["status"] == "entered-in-error"
            assert state.run is not None
            assert state.run.deleted == 1


def test_4_without_deleted_files_a_reconcile_finds_deletions(tmp_path: Path) -> None:
    """A full export is compared with what the sync imported; a resource created in Medplum itself is not touched."""
    no_deleted = Switches.general(deleted=False)
    things = [observation(f"o{n}") for n in range(10)]
    with small(patient("p1"), *things, switches=no_deleted, folder=tmp_path) as both:
        both.run()
        local = requests.post(
            f"{both.medplum.base_url}/fhir/R4/Observation",
            json={"resourceType": "Observation", "status": "final", "code": {"text": "local"}},
            headers=both.headers(),
            timeout=240,
        ).json()
        both.source.source.delete("Observation", "o1", at=both.source.now())
        state = both.run(Options(reconcile=True))
        assert state.run is not None
        assert state.run.deleted == 1
        assert set(both.by_source_id("Observation")) == {f"o{n}" for n in range(10)} - {"o1"}
        assert local["id"] in {each["id"] for each in both.stored("Observation")}


def test_4_a_reconcile_refuses_to_delete_too_much(tmp_path: Path) -> None:
    """Half an export must not empty Medplum."""
    things = [observation(f"o{n}") for n in range(10)]
    with small(patient("p1"), *things, switches=Switches.general(deleted=False), folder=tmp_path) as both:
        both.run()
        for number in range(8):
            both.source.source.delete("Observation", f"o{number}", at=both.source.now())
        with pytest.raises(ReviewNeeded):
            both.run(Options(reconcile=True))
        assert len(both.by_source_id("Observation")) == 10


def test_4_a_reconcile_wants_all_groups(tmp_path: Path) -> None:
    """Patients of a Group that is not named would look deleted."""
    source = practice(patient("p1"), patient("p2"))
    source.groups["g2"] = {"p2": THEN}
    with world(source, folder=tmp_path) as both:
        both.run()
        with pytest.raises(ConfigError):
            both.run(Options(reconcile=True), group_ids=("g1",))


def test_4_errors_of_the_manifest_are_reported() -> None:
    """The source's OperationOutcomes are counted in the report."""
    with small(patient("p1"), switches=Switches.general(outcomes=("error", "warning"))) as both:
        state = both.run()
        assert state.run is not None
        assert [(each.type, each.count, each.reason) for each in state.run.not_exported] == [
            ("*", 1, "error processing")
        ]
        assert state.run.notes == ("the source reports 1 x warning processing",)


def test_4_the_job_is_deleted_after_the_last_file() -> None:
    """Some sources refuse the next export otherwise."""
    with small(patient("p1"), switches=Switches.general(one_job=True)) as both:
        both.run()
        both.run()
        assert both.source.jobs == {}


def test_4_the_job_is_deleted_when_the_run_has_failed() -> None:
    """Otherwise a source that allows one export at a time rejects the next run until the job ends by itself."""
    with small(patient("p1"), switches=Switches.general(one_job=True)) as both:
        both.source.faults.add("failed_export")
        with pytest.raises(PermanentError):
            both.run()
        assert both.source.jobs == {}
        both.source.faults.clear()
        both.run()
        assert_exact(both)


def test_4_a_job_with_expired_links_is_deleted_before_the_next_is_requested() -> None:
    """The source still knows it."""
    with small(patient("p1"), switches=Switches.general(one_job=True)) as both:
        both.source.faults.add("expired_link", times=2)
        both.run()
        assert both.source.jobs == {}
        assert_exact(both)


def test_4_the_token_does_not_go_to_signed_links_nor_along_redirects() -> None:
    """requiresAccessToken false: no token; a redirect never carries it."""
    with small(patient("p1"), observation("o1"), switches=Switches.general(signed_urls=True)) as both:
        both.run()
        assert both.source.foreign_requests
        assert not any(each.authorized for each in both.source.foreign_requests)
        assert_exact(both)
    with small(patient("p1"), observation("o1")) as both:
        both.source.faults.add("redirect_download")
        both.run()
        assert both.source.foreign_requests
        assert not any(each.authorized for each in both.source.foreign_requests)
        assert_exact(both)


# -- 5 Writes


def test_5_writes_are_sent_in_batches_and_counted_by_kind(tmp_path: Path) -> None:
    """150 new resources are one batch; the next run counts created, updated and unchanged separately."""
    things = [observation(f"o{n}") for n in range(150)]
    with small(patient("p1"), *things, folder=tmp_path) as both:
        assert counts(both.run())["created"] == 151
        batches = [each for each in both.medplum.requests if each.method == "POST" and each.path.endswith("/R4")]
        assert len(batches) == 1
        change(both, observation("o1", status="amended"))
        change(both, observation("new"))
        change(both, observation("o2"))
        state = both.run(Options(full=True))
        assert counts(state) == {"seen": 152, "created": 1, "updated": 1, "unchanged": 150, "failed": 0}


def test_5_an_edit_in_medplum_is_kept_where_the_settings_say_so() -> None:
    """source wins and reports it; keep preserves the edit; local identifiers, tags and extensions always stay."""
    for policy, status in (("source", "amended"), ("keep", "corrected"), ("report", "corrected")):
        with small(patient("p1"), observation("o1")) as both:
            both.run()
            stored = one(both, "Observation", "o1")
            stored["status"] = "corrected"
            stored["identifier"].append({"system": "https://clinic.example", "value": "L-1"})
            stored["meta"]["tag"] = [{"system": "https://clinic.example", "code": "checked"}]
            stored["extension"] = [{"url": "https://clinic.example/x", "valueString": "local"}]
            both.put(stored)
            change(both, observation("o1", status="amended"))
            state = both.run(local_edits=policy)
            now = one(both, "Observation", "o1")
            assert now["status"] == status
            assert {"system": "https://clinic.example", "value": "L-1"} in now["identifier"]
            assert now["meta"]["tag"] == [{"system": "https://clinic.example", "code": "checked"}]
            assert now["extension"] == [{"url": "https://clinic.example/x", "valueString": "local"}]
            assert state.run is not None
            assert (state.run.overwritten, state.run.kept) == ((1, 0) if policy == "source" else (0, 1))


def test_5_what_the_source_takes_back_is_taken_back() -> None:
    """An identifier or a field that the source no longer has is removed, although local ones stay."""
    before = patient("p1", gender="male", identifier=[{"system": "https://mrn.example", "value": "1"}])
    with small(before) as both:
        both.run()
        change(both, patient("p1", identifier=[{"system": "https://mrn.example", "value": "2"}]))
        both.run()
        assert_exact(both)


# -- 6 Telling the truth


def test_6_a_failed_sync_says_that_it_failed() -> None:
    """The error reaches the caller, and the health record outlives the process."""
    with small(patient("p1")) as both:
        both.source.faults.add("failed_export")
        with pytest.raises(PermanentError):
            both.run()
        state = both.sync().store.load()
        assert state.run is not None
        assert state.run.phase == "failed"
        assert both.stored("Task")[0]["status"] == "failed"


# -- 7 and 8 Search by patient


def test_7_the_search_has_no_silent_page_limit() -> None:
    """Every page of every patient is read."""
    things = [observation(f"o{n}") for n in range(45)]
    with small(patient("p1"), *things, switches=Switches.general(search_page=10)) as both:
        both.run(level="search")
        assert len(both.by_source_id("Observation")) == 45


def test_7_an_error_while_searching_is_no_end_of_data() -> None:
    """Busy answers are retried; a refusal ends the run and leaves the time stamp unchanged."""
    with small(patient("p1"), observation("o1")) as both:
        both.source.faults.add("server_error", times=3, path="/Observation")
        both.run(level="search")
        assert set(both.by_source_id("Observation")) == {"o1"}
    with small(patient("p1"), observation("o1")) as both:
        both.source.faults.add("server_error", path="/Observation")
        with pytest.raises(BotError):
            both.run(level="search")
        assert both.sync().store.load().last_sync_time == ""


def test_7_a_group_that_cannot_be_read_never_widens_to_everybody() -> None:
    """Only the Group's patients were requested; if the Group is not readable, no patients are imported."""
    closed = Switches.general(open_types=frozenset(), levels=frozenset({"Patient", "system"}))
    with small(patient("p1"), patient("p2"), switches=closed) as both:
        with pytest.raises((PermanentError, AuthError)):
            both.run()
        assert both.stored("Patient") == []


def test_7_one_token_does_not_have_to_last_for_the_whole_run() -> None:
    """Tokens that live shorter than the run are renewed in the middle of polling and downloading."""
    things = [observation(f"o{n}") for n in range(30)]
    with small(patient("p1"), *things, switches=Switches.general(polls=3, part_size=5, token_seconds=300)) as both:
        both.source.faults.add("expired_token", share=0.3)
        both.run()
        assert_exact(both)


def test_8_a_search_since_asks_for_what_changed() -> None:
    """The second search run reads only newer resources."""
    with small(patient("p1"), observation("o1")) as both:
        both.run(level="search")
        both.source.clear_requests()
        change(both, observation("o2", category=[{"text": "laboratory"}]))
        state = both.run(level="search")
        assert counts(state)["seen"] == 1
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}


# -- 9 What the readme promised


def test_9_token_requests_are_retried() -> None:
    """A busy token endpoint is asked again."""
    with small(patient("p1")) as both:
        both.source.faults.add("server_error", times=2, path="token", method="POST")
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1"}


def test_9_a_lost_job_is_kicked_off_again_once() -> None:
    """An export that the source forgot is requested again; a second loss is an error."""
    with small(patient("p1")) as both:
        both.source.faults.add("lost_job", times=1)
        both.run()
        assert set(both.by_source_id("Patient")) == {"p1"}
        both.source.faults.add("lost_job")
        both.source.clear_requests()
        with pytest.raises(PermanentError):
            both.run()
        assert len([each for each in both.source.requests if each.path.endswith("$export")]) == 2


def test_9_a_link_that_expired_is_fetched_again() -> None:
    """The manifest is read again, and the download continues."""
    with small(patient("p1"), observation("o1"), switches=Switches.general(signed_urls=True)) as both:
        both.source.faults.add("expired_link", times=1)
        both.run()
        assert_exact(both)


@pytest.mark.parametrize("kind", ["deleted", "outcome"])
def test_9_an_expired_link_to_a_deleted_or_error_file_is_fetched_again_too(kind: str) -> None:
    """The export continues; it is not kicked off again."""
    switches = Switches.general(signed_urls=True, outcomes=("warning",))
    with small(patient("p1"), observation("o1"), switches=switches) as both:
        both.run()
        both.source.source.delete("Observation", "o1", at=both.source.now())
        both.source.clear_requests()
        both.source.faults.add("expired_link", times=1, path=f"/{kind}/")
        state = both.run()
        assert state.run is not None
        assert state.run.deleted == 1
        assert state.run.notes
        assert len([each for each in both.source.requests if each.path.endswith("$export")]) == 1


def test_a_bad_line_is_kept_with_its_place_and_stops_nothing() -> None:
    """The report names file and line, not the content."""
    things = [observation(f"o{n}") for n in range(5)]
    with small(patient("p1"), *things) as both:
        both.source.faults.add("bad_line", times=1, path="Observation")
        state = both.run()
        assert state.run is not None
        assert len(state.run.bad_lines) == 1
        assert state.run.bad_lines[0].startswith("Observation file 1 line ")
        assert counts(state)["failed"] == 1


def test_a_resource_without_an_id_is_reported_with_its_line() -> None:
    """It can't be kept for a retry: the report counted it as failed, but did not say where it was."""
    with small(patient("p1"), observation("not_an_id")) as both:
        state = both.run()
        assert state.run is not None
        assert state.run.bad_lines == ("Observation file 1 line 1: its id or its meta is none of FHIR's",)
        assert counts(state)["failed"] == 1


def test_documents_are_copied_and_their_links_rewritten(tmp_path: Path) -> None:
    """The content is stored in Medplum once: a second full run stores nothing again."""
    with world(generate(2, 2), folder=tmp_path) as both:
        both.run()
        documents = both.stored("DocumentReference")
        links = [each["content"][0]["attachment"].get("url", "") for each in documents]
        assert any("/storage/" in link for link in links)
        assert all(both.content(link) for link in links if "/storage/" in link)
        before = len([each for each in both.medplum.requests if each.method == "POST" and "Binary" in each.path])
        both.run(Options(full=True))
        after = len([each for each in both.medplum.requests if each.method == "POST" and "Binary" in each.path])
        assert before == after > 0


def _loader(both: World) -> Any:
    from bot_layer.bulk_sync.upsert_worker import UpsertWorker  # noqa: PLC0415 - used only here

    sync = both.sync()
    return UpsertWorker(sync, Run("r", 0.0))


def _resource(value: Json) -> Any:
    from bot_layer.bulk_sync.rules.ndjson import resource_of  # noqa: PLC0415

    return resource_of(value, 1)
