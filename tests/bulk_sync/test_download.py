"""Files on their way to the disk: each resource once, in its latest version, and only what was requested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bot_layer.bulk_sync.download import download_files
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import SHORT_FILE, NotExported
from bot_layer.bulk_sync.rules.ndjson import resource_of
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run
from bot_layer.bulk_sync.source.files import FileChanged, Files
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import World, assert_adds_up, counts, observation, patient, world

STATE = FileState("output", "Observation", 0)


@dataclass(frozen=True)
class Given(Files):
    """A file with these resources; it becomes another one after each version but the last."""

    versions: Iterator[list[Json]]

    def chunks(self, _file: ExportFile, *, requires_token: bool | None) -> Iterator[bytes]:  # noqa: ARG002
        things = next(self.versions)
        yield b"\n".join(orjson.dumps(each) for each in things)
        if things and things[-1].get("id") == "changed":
            raise FileChanged("A file changed while it was read.", service="Practice Fusion")


def spooled(both: World, *versions: list[Json], state: FileState = STATE) -> tuple[dict[str, Json], Run]:
    """The resources on disk after one file was read, by id, and the run."""
    session = both.sync()
    session.store.acquire()
    types = ("Observation", "Patient")
    session.keep(Run("r", 0.0, jobs=(Job("system", types, files=(state,)),)))
    session.spool.use("test")
    session.source.files = Given(session.source.files.requests, iter(versions))
    file = ExportFile("output", "Observation", "x")
    try:
        download_files(session, UpsertWorker(session, session.current), [(0, state, file)])
        return {each.key.id: orjson.loads(each.body) for each in session.spool.read()}, session.current
    finally:
        session.spool.remove()


def stamped(source_id: str, stamp: str, **fields: Any) -> Json:
    """An Observation with the source's time stamp."""
    return observation(source_id, meta={"lastUpdated": stamp}, **fields)


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_two_versions_in_one_export_the_newer_one_is_written(newest_first: bool, tmp_path: Path) -> None:
    """By the source's time stamp, whatever the order and the time zone; both are counted."""
    versions = [stamped("o1", "2024-06-01T01:00:00+02:00"), stamped("o1", "2024-05-31T23:30:00Z", status="amended")]
    with world(folder=tmp_path) as both:
        found, _ = spooled(both, versions[::-1] if newest_first else versions)
        assert found["o1"]["status"] == "amended"


def test_without_time_stamps_what_arrives_later_is_written(tmp_path: Path) -> None:
    """There is no other criterion."""
    with world(folder=tmp_path) as both:
        found, _ = spooled(both, [observation("o1"), observation("o1", status="amended")])
        assert found["o1"]["status"] == "amended"


def test_a_resource_that_appears_twice_is_counted_twice_and_written_once() -> None:
    """seen = created + updated + unchanged + failed."""
    things = [patient("p1"), *(observation(f"o{n % 7}") for n in range(28))]
    with small(things[0], *things[1:8]) as both:
        source = both.source.source
        entry = source.entries["Observation"]["o1"]
        source.entries["Observation"]["o1"] = replace(entry, line=entry.line + b"\n" + entry.line)
        state = both.run()
        assert_adds_up(state)
        assert counts(state)["seen"] == 9
        assert counts(state)["created"] == 8
        assert len(both.by_source_id("Observation")["o1"]) == 1


@pytest.mark.parametrize(
    "intruder",
    [
        {"resourceType": "Subscription", "id": "s1", "status": "active", "reason": "x", "criteria": "Patient"},
        {"resourceType": "Bot", "id": "b1", "name": "x"},
        {"resourceType": "User", "id": "u1"},
        {"resourceType": "AccessPolicy", "id": "a1"},
        {"resourceType": "Condition", "id": "c1", "subject": {"reference": "Patient/p1"}},
    ],
)
def test_a_type_that_was_not_requested_is_reported_and_not_written(intruder: Json, tmp_path: Path) -> None:
    """An export file can't create a Subscription, a Bot or a User in Medplum, nor anything else unasked."""
    with world(folder=tmp_path) as both:
        found, run = spooled(both, [observation("o1"), intruder])
        assert set(found) == {"o1"}
        kind = intruder["resourceType"]
        assert run.notes == (f"1 x {kind} in a file of Observation: not asked for, not written",)


def test_an_operation_outcome_in_an_output_file_is_a_report_of_the_source(tmp_path: Path) -> None:
    """It is no resource of a patient; its words may name one, and stay out."""
    issue = {"severity": "error", "code": "processing", "diagnostics": "Sample Person"}
    outcome = {"resourceType": "OperationOutcome", "id": "x", "issue": [issue]}
    with world(folder=tmp_path) as both:
        found, run = spooled(both, [observation("o1"), outcome])
        assert set(found) == {"o1"}
        assert [(each.type, each.count, each.reason) for each in run.not_exported] == [
            ("Observation", 1, "error processing")
        ]


@pytest.mark.parametrize("kind", ["../Binary", "Patient/p1", "Patient?x", ""])
def test_a_resource_type_that_is_a_path_is_a_bad_line(kind: str, tmp_path: Path) -> None:
    """It is never used in an address."""
    with world(folder=tmp_path) as both:
        found, run = spooled(both, [observation("o1"), {"resourceType": kind, "id": "x"}])
        assert set(found) == {"o1"}
        assert len(run.bad_lines) == 1
        assert run.counts["Observation"]["failed"] == 1


@pytest.mark.parametrize("times", [1, 5, 6])
def test_a_file_that_changed_is_read_from_its_first_line(times: int, tmp_path: Path) -> None:
    """Nothing of the former version stays."""
    before, now = [observation("o1"), observation("changed")], [observation("new")]
    with world(folder=tmp_path) as both:
        if times < 6:
            found, run = spooled(both, *[before] * times, now)
            assert set(found) == {"new"}
            assert run.jobs[0].files[0].done
        else:
            with pytest.raises(FileChanged):
                spooled(both, *[before] * times)


def test_a_file_that_is_shorter_than_its_manifest_says_is_read_again(tmp_path: Path) -> None:
    """What stays missing is reported, and the rest is written."""
    whole, cut = [observation("o1"), observation("o2")], [observation("o1")]
    counted = FileState("output", "Observation", 0, count=2)
    with world(folder=tmp_path) as both:
        found, _ = spooled(both, cut, whole, state=counted)
        assert set(found) == {"o1", "o2"}
    with world(folder=tmp_path) as both:
        found, run = spooled(both, cut, cut, state=counted)
        assert set(found) == {"o1"}
        assert run.not_exported == (NotExported("Observation", 1, SHORT_FILE),)


def test_an_id_that_appears_twice_is_one_resource() -> None:
    """This holds for a first run too, which looks nothing up because Medplum was empty: the later version wins."""
    with world(generate(1, 1)) as both:
        sync = both.sync()
        sync.store.acquire()
        sync.sole_writer = True
        worker = UpsertWorker(sync, Run("r", 0.0))
        first = worker.load([resource_of(patient("twice"))])
        second = worker.load([resource_of(patient("twice", gender="male"))])
        sync.map.close()
        assert (first.counts["Patient"]["created"], second.counts["Patient"]["updated"]) == (1, 1)
        (stored,) = both.by_source_id("Patient")["twice"]
        assert stored["gender"] == "male"
