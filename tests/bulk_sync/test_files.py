"""Files by handfuls: the place is kept line by line, and no key is written twice at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest

from bot_layer.bulk_sync.files import FileLoader, handfuls
from bot_layer.bulk_sync.load_files import load_file
from bot_layer.bulk_sync.progress import place_of
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.ndjson import resource_of, split_lines
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, add_counts, totals
from bot_layer.bulk_sync.source.files import FileChanged, Files
from bot_layer.bulk_sync.upsert_worker import Loader
from bot_layer.bulk_sync.worker_pool import loading
from bot_layer.errors import PermanentError
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.world import observation, patient, world


def file(*resources: Json) -> bytes:
    """Lines."""
    return b"\n".join(orjson.dumps(each) for each in resources)


def test_a_handful_ends_before_a_key_comes_again() -> None:
    """Two entries with one identifier never share a batch."""
    data = file(patient("1"), patient("2"), patient("1"), patient("3"))
    found = [(last, [each.value["id"] for each in some]) for last, some, _ in handfuls(split_lines([data]))]
    assert found == [(2, ["1", "2"]), (4, ["1", "3"])]


def test_handfuls_are_no_larger_than_asked_and_cover_every_line() -> None:
    """Bad lines belong to the handful in which they stand; lines before the kept place are passed over."""
    data = file(patient("1")) + b"\nnonsense\n" + file(patient("2"), patient("3"))
    found = [(last, len(some), len(bad)) for last, some, bad in handfuls(split_lines([data]), size=2)]
    assert found == [(2, 1, 1), (4, 2, 0)]
    assert [last for last, _, _ in handfuls(split_lines([data]), after=3)] == [4]
    assert list(handfuls(split_lines([data]), after=9)) == []


def test_a_key_that_comes_twice_ends_as_it_came_last(tmp_path: Path) -> None:
    """Once in Medplum, whatever runs in parallel; both are counted."""
    with world() as both:
        sync = both.sync()
        sync.store.acquire()
        loader = Loader(sync.medplum, sync.map, sync.settings.source)
        states = ("registered", "preliminary", "final", "amended")
        things = [observation(f"o{n % 7}", status=states[n // 7]) for n in range(28)]
        with ThreadPoolExecutor(4) as pool:
            files = FileLoader(loader, pool, 4)
            counts: dict[str, dict[str, int]] = {}
            for step in files.load(split_lines([file(*things)]), type_="Observation"):
                counts = add_counts(counts, step.loaded.counts)
        stored = both.by_source_id("Observation")
        assert {source_id: [each["status"] for each in found] for source_id, found in stored.items()} == {
            f"o{n}": ["amended"] for n in range(7)
        }
        assert totals(counts) == {"seen": 28, "created": 7, "updated": 21, "unchanged": 0, "failed": 0}


def test_a_failure_is_raised_when_all_others_have_come_to_rest() -> None:
    """Nothing writes on after the lease is given back."""
    with world() as both:
        sync = both.sync()
        sync.medplum.requests.base_url = both.source.base_url  # no Medplum at all: every request is refused
        loader = Loader(sync.medplum, sync.map, sync.settings.source)
        with ThreadPoolExecutor(2) as pool:
            files = FileLoader(loader, pool, 2)
            with pytest.raises(PermanentError):
                list(files.load(split_lines([file(*(observation(f"o{n}") for n in range(500)))]), type_="Observation"))
            assert not files.keys._keys


def test_an_id_that_comes_twice_is_one_resource() -> None:
    """Also on a first run, where nothing is looked up because Medplum held nothing: the later version stands."""
    with world(generate(1, 1)) as both:
        sync = both.sync()
        sync.store.acquire()
        loader = Loader(sync.medplum, sync.map, sync.settings.source, alone=True)
        first = loader.load([resource_of(patient("twice"))])
        second = loader.load([resource_of(patient("twice", gender="male"))])
        sync.map.close()
        assert (first.counts["Patient"]["created"], second.counts["Patient"]["updated"]) == (1, 1)
        (stored,) = both.by_source_id("Patient")["twice"]
        assert stored["gender"] == "male"


@dataclass(frozen=True)
class Changing(Files):
    """A file that becomes another one so many times while it is read."""

    versions: Iterator[list[Json]]

    def chunks(self, _file: ExportFile, *, requires_token: bool | None) -> Iterator[bytes]:  # noqa: ARG002
        things = next(self.versions)
        yield file(*things)
        if len(things) > 1:
            raise FileChanged("A file changed while it was read.", service="Practice Fusion")


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_changed_is_read_from_its_first_line(times: int) -> None:
    """What stands on a line by then is another resource: passed over as handled, it would be lost."""
    with world() as both:
        session = both.sync().session
        session.store.acquire()
        state = FileState("output", "Observation", 0, lines=100)
        session.keep(Run("r", 0.0, jobs=(Job("system", ("Observation",), files=(state,)),)))
        before, now = [observation("o1"), observation("o2")], [observation("new")]
        session.source.files = Changing(session.source.files.requests, iter([before] * times + [now]))
        with loading(session, session.run) as files:
            if times == 1:
                load_file(session, files, state, ExportFile("output", "Observation", "x"))
                assert set(both.by_source_id("Observation")) == {"new"}
                assert place_of(session, state) == replace(state, lines=1, done=True)
            else:
                with pytest.raises(FileChanged):
                    load_file(session, files, state, ExportFile("output", "Observation", "x"))
                assert place_of(session, state) == replace(state, lines=0)
