"""A resource that is none, although it is JSON, stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bot_layer.bulk_sync.deletions import delete
from bot_layer.bulk_sync.rules.ndjson import Line, Resource, read_resources
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.source.records import Records
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import generate
from medplum_sandbox.practice_fusion.source import Deletion
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import observation, patient, world


def read(lines: list[Line]) -> list[Resource]:
    """The resources of these lines."""
    return [each for each in read_resources(lines) if isinstance(each, Resource)]


PART = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}]}


@pytest.mark.parametrize(
    "odd",
    [
        {"id": []},
        {"id": {"a": 1}},
        {"id": None},
        {"id": "no spaces"},
        {"id": "x", "meta": "text"},
        {"id": "x", "meta": [1]},
        {"id": "x", "meta": PART},
    ],
)
def test_a_found_resource_that_cannot_be_written_fails_alone(odd: dict[str, Any], monkeypatch: Any) -> None:
    """It is counted as failed and reported, and its neighbor arrives."""
    good = observation("good")

    def found(_records: Records, kind: str, _query: str) -> Iterator[Json]:
        yield from {"Patient": [patient("p1")], "Observation": [good | odd, good]}[kind]

    monkeypatch.setattr(Records, "search", found)
    with small(patient("p1"), good) as both:
        state = both.run(level="search", types=("Patient", "Observation"))
        assert state.run is not None
        row = state.run.counts["Observation"]
        assert (state.run.phase, row["failed"], row["created"]) == ("partial", 1, 1)
        assert "Observation found by search" in state.run.bad_lines[0]
        assert list(both.by_source_id("Observation")) == ["good"]


@pytest.mark.parametrize("meta", ["text", [1], PART])
def test_a_resource_read_by_itself_that_cannot_be_written_fails_alone(
    meta: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    """It is counted as failed and reported, once; the reference to it stays logical."""
    place = {"resourceType": "Organization", "id": "a1", "meta": meta}
    monkeypatch.setattr(Records, "read", lambda *_: place)
    with small(patient("p1", managingOrganization={"reference": "Organization/a1"}), folder=tmp_path) as both:
        run, later = both.run().run, both.run().run
        assert run is not None
        assert (run.phase, run.counts["Organization"]["failed"], run.waiting) == ("partial", 1, 1)
        assert "Organization read one by one" in run.bad_lines[0]
        assert both.stored("Organization") == []
        assert later is not None
        assert (later.bad_lines, later.waiting) == ((), 1)


def test_a_resource_that_is_nested_too_deeply_fails_alone() -> None:
    """It is kept as a failure, and its neighbors arrive once."""
    head = b'{"resourceType":"Patient","id":"deep","managingOrganization":{"reference":"Organization/none"},"x":'
    deep = head + b'{"x":' * 600 + b"1" + b"}" * 601
    lines = [Line(1, orjson.dumps({"resourceType": "Patient", "id": "a"})), Line(2, deep)]
    lines.append(Line(3, orjson.dumps({"resourceType": "Patient", "id": "b"})))
    with world(generate(1, 1)) as both:
        sync = both.sync()
        sync.store.acquire()
        sync.sole_writer = True
        loader = UpsertWorker(sync, Run("r", 0.0))
        row = loader.load(read(lines)).counts["Patient"]
        assert (row["seen"], row["created"], row["failed"]) == (3, 2, 1)
        assert [(each.key.id, each.reason) for each in sync.map.failures()] == [("deep", "nested too deeply")]
        assert {name: len(found) for name, found in both.by_source_id("Patient").items()} == {"a": 1, "b": 1}
        sync.map.close()


@pytest.mark.parametrize("odd", ["x/Nonsense/1", "no spaces", "a,b", "1/x/2", "x/Patient?identifier=1"])
def test_a_deletion_that_cannot_be_read_is_a_bad_line(odd: str) -> None:
    """The run is partial: the source deleted something that stays in Medplum. The next deletion is carried out."""
    with world(generate(1, 1)) as both:
        person = next(iter(both.source.source.resources("Patient")))["id"]
        both.source.source.add(observation("o1", f"Patient/{person}"), at=both.source.now())
        both.run()
        both.source.source.deletions["Patient", odd] = Deletion("Patient", odd, both.source.now(), None)
        both.source.source.delete("Observation", "o1", at=both.source.now())
        state = both.run()
        assert state.run is not None
        assert (state.run.phase, state.run.deleted) == ("partial", 1)
        assert state.run.counts["Bundle"]["failed"] == len(state.run.bad_lines) == 1
        assert state.run.bad_lines[0].startswith("deletions file ")
        assert odd not in state.run.bad_lines[0]


@pytest.mark.parametrize("upsert", ["lookup", "conditional"])
@pytest.mark.parametrize("kind", ["Unheardof", "patient"])
def test_a_resource_of_a_type_that_medplum_does_not_have_fails_alone(kind: str, upsert: str, tmp_path: Path) -> None:
    """It is kept with the reason, its neighbors arrive, and the run completes; so does a run that must delete one."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync = both.sync(upsert=upsert)
        sync.store.acquire()
        loader = UpsertWorker(sync, Run("r", 0.0))
        lines = [
            Line(number, orjson.dumps({"resourceType": each, "id": "x"}))
            for number, each in ((1, kind), (2, "Patient"))
        ]
        counts = loader.load(read(lines)).counts
        assert counts[kind]["failed"] == counts["Patient"]["created"] == 1
        assert [each.key for each in sync.map.failures()] == [Key(kind, "x")]
        assert both.waited == []
        assert delete(sync, [Key(kind, "x"), Key("Patient", "x")]) == 1
        assert not list(sync.map.failures())
        sync.map.close()


def test_a_binary_whose_data_is_none_fails_alone(tmp_path: Path) -> None:
    """Empty content in its place would look as if all were well."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync = both.sync()
        sync.store.acquire()
        loader = UpsertWorker(sync, Run("r", 0.0))
        datas = ((1, "YQ=="), (2, "YWJj ZA"), (3, "Yg=="))
        lines = [Line(n, orjson.dumps({"resourceType": "Binary", "id": f"b{n}", "data": data})) for n, data in datas]
        row = loader.load(read(lines)).counts["Binary"]
        assert (row["seen"], row["created"], row["failed"]) == (3, 2, 1)
        assert [(each.key.id, each.reason) for each in sync.map.failures()] == [("b2", "its data is not base64")]
        assert set(both.by_source_id("Binary")) == {"b1", "b3"}
        sync.map.close()
