"""Files that several workers load for one run: each once, wherever somebody breaks off."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot_layer.bulk_sync.engine import Options, Sync
from bot_layer.bulk_sync.fleet import FileTask
from bot_layer.bulk_sync.part import FileWorker, PartStore, SharedKeys
from bot_layer.bulk_sync.rules.local_edits import EditList, LocalEdit
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run, SyncState, add_part, part_of
from bot_layer.bulk_sync.rules.task import read_part
from bot_layer.bulk_sync.setup import Surroundings
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.task_store import LeaseLost
from bot_layer.errors import PermanentError, TransientError
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Switches, generate
from tests.bulk_sync.test_chaos import MEDPLUM_FAULTS, SOURCE_FAULTS
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, world

pytestmark = pytest.mark.no_cover  # the ways of a run, shared among processes


class Threads:
    """A fleet in one process: its workers share nothing but the map, the source and Medplum."""

    def __init__(self, workers: Sequence[FileWorker]) -> None:
        self._workers = workers
        self._pool = ThreadPoolExecutor(len(workers))
        self._given: dict[str, Future[Json]] = {}
        self.begun: list[FileTask] = []

    def give_out(self, tasks: Sequence[FileTask]) -> None:
        """To each worker in turn."""
        for task in tasks:
            if task.id not in self._given:
                worker = self._workers[len(self._given) % len(self._workers)]
                self.begun.append(task)
                self._given[task.id] = self._pool.submit(worker.load, task)

    def ended(self, tasks: Sequence[FileTask]) -> Mapping[str, Json]:
        """What has ended, once anything has."""
        wait([self._given[each.id] for each in tasks], return_when=FIRST_COMPLETED)
        return {each.id: self._given[each.id].result() for each in tasks if self._given[each.id].done()}

    def close(self) -> None:
        """Wait for the rest."""
        self._pool.shutdown()


class Answers:
    """A fleet whose workers answer as the test says, in turn."""

    def __init__(self, *answers: Json) -> None:
        self._answers = list(answers)
        self.given: list[FileTask] = []

    def give_out(self, tasks: Sequence[FileTask]) -> None:
        """Nobody loads anything."""
        self.given += tasks

    def ended(self, tasks: Sequence[FileTask]) -> Mapping[str, Json]:
        """Each at once."""
        return {each.id: self._answers.pop(0) for each in tasks}


def shared_run(both: World, *, tries: int = 40, options: Options | None = None) -> SyncState:
    """A run to its end with two workers, tried again as a scheduler does."""
    workers = [both.sync() for _ in range(2)]
    fleet = Threads([FileWorker(each.session) for each in workers])
    try:
        for _ in range(tries):
            sync = both.sync()
            sync.session.fleet = fleet
            try:
                state = sync.run(options or Options())
            except TransientError:
                continue
            finally:
                sync.map.close()
            if state.run is not None and state.run.over:
                return state
        raise AssertionError("no run came to its end")
    finally:
        fleet.close()
        for each in workers:
            each.map.close()


@pytest.mark.parametrize("seed", range(6))
def test_shared_files_end_exact_under_every_fault(seed: int, tmp_path: Path) -> None:
    """Conflicts, quota, 5xx, resets after the write, broken downloads: everything once, and the report adds up."""
    rng = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    with world(generate(seed, 1), switches=Switches.general(part_size=4, ranges=bool(seed % 2))) as both:
        both.folder = tmp_path
        for kind, share in MEDPLUM_FAULTS.items():
            both.medplum.faults.add(kind, share=share * rng.choice((0, 1, 2)))
        for kind, share in SOURCE_FAULTS.items():
            both.source.faults.add(kind, share=share * rng.choice((0, 0.5, 1)))
        assert_adds_up(shared_run(both))
        both.medplum.faults.clear()
        both.source.faults.clear()
        assert_exact(both)


def test_a_second_run_finds_all_of_it_unchanged(tmp_path: Path) -> None:
    """What any worker brought is in the map that all share."""
    with world(generate(3, 3), switches=Switches.general(part_size=6), folder=tmp_path) as both:
        first = counts(shared_run(both))
        assert (first["created"], first["failed"]) == (first["seen"], 0)
        again = counts(shared_run(both, options=Options(since="2000-01-01T00:00:00Z")))
        assert (again["unchanged"], again["created"]) == (again["seen"], 0)


def opened(both: World) -> tuple[Sync, FileTask]:
    """A run that stands before its files, held by its process, and the first of them."""
    sync = both.sync()
    fleet = Answers({"end": "again", "code": "x", "message": "later", "service": "s"})
    sync.session.fleet = _First(fleet)
    with pytest.raises(TransientError):
        sync.run(Options())
    sync.store.acquire()
    return sync, fleet.given[0]


class _First(Answers):
    """Of many files only the first is told to have ended."""

    def __init__(self, inner: Answers) -> None:
        super().__init__()
        self._inner = inner

    def give_out(self, tasks: Sequence[FileTask]) -> None:
        self._inner.give_out(tasks)

    def ended(self, tasks: Sequence[FileTask]) -> Mapping[str, Json]:
        answers = self._inner._answers
        return {each.id: answers[0] for each in tasks}


def test_a_file_is_loaded_only_while_its_run_is_held(tmp_path: Path) -> None:
    """Not for a run that is another, over, or held by nobody; not a file that there is not, nor one of another job."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync, task = opened(both)
        worker = FileWorker(both.sync().session)
        before = len(both.medplum.requests)
        for other in (replace(task, run="other"), replace(task, job=7), replace(task, turn=99)):
            assert worker.load(other) == {"end": "stopped"}
        sync.store.save(sync.store.state, release=True)
        assert worker.load(task) == {"end": "stopped"}
        written = [each for each in both.medplum.requests[before:] if (each.method, each.path) == ("POST", "/fhir/R4")]
        assert not written
        sync.store.acquire()
        assert worker.load(task)["end"] == "done"
        sync.map.close()
        worker.session.map.close()


def test_a_file_that_was_loaded_is_told_again_with_the_same_counts(tmp_path: Path) -> None:
    """A process that died before its answer was kept: the next one finds the place at the end of the file."""
    with world(generate(1, 2), folder=tmp_path) as both:
        sync, task = opened(both)
        first, second = FileWorker(both.sync().session), FileWorker(both.sync().session)
        answer = first.load(task)
        assert answer["part"]["counts"][task.type]["created"] > 0
        assert second.load(task) == answer
        for each in (sync, first.session, second.session):
            each.map.close()


def test_who_loads_a_file_stops_when_another_began_it_anew(tmp_path: Path) -> None:
    """And when the run is not held any more: seen at the next look, before anything more is written."""
    now = [1_000_000_000.0]
    with world(generate(1, 1), folder=tmp_path) as both:
        sync, task = opened(both)
        kept = sync.map

        def store(name: str) -> PartStore:
            requests = sync.medplum.requests
            return PartStore(requests, sync.store.source, name, 12.0, lambda: now[0], kept=kept, task=task)

        mine, theirs = store("mine"), store("theirs")
        mine.open()
        mine.check()
        theirs.open()
        mine.check()  # not looked yet
        now[0] += 3
        with pytest.raises(LeaseLost):
            mine.renew()
        theirs.check()
        sync.store.save(sync.store.state, release=True)
        now[0] += 3
        with pytest.raises(LeaseLost):
            theirs.check()
        kept.close()


def test_keys_of_another_process_are_waited_for(tmp_path: Path) -> None:
    """Until they are given back; for too long, and the file is given out again later."""
    kept = SyncMap(tmp_path / "map.sqlite")
    key = Key("Patient", "1")
    kept.claim([key], "other")
    waits: list[float] = []

    def turn(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            kept.give_all_back("other")

    mine = SharedKeys(kept=kept, owner="mine", wait=turn)
    mine.take({key})
    assert len(waits) == 3
    third = SharedKeys(kept=kept, owner="third", wait=lambda _: None)
    with pytest.raises(TransientError) as told:
        third.take({key})
    assert told.value.code == "keys-claimed"
    mine.give({key})
    third.take({key})
    kept.close()


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (
            {"end": "failed", "code": "file-incomplete", "message": "m", "service": "s"},
            PermanentError,
            "file-incomplete",
        ),
        ({"end": "again", "code": "busy", "message": "m", "service": "s"}, TransientError, "busy"),
    ],
)
def test_what_keeps_a_file_from_being_loaded_is_raised_where_the_run_is(
    answer: Json, kind: type[PermanentError | TransientError], code: str, tmp_path: Path
) -> None:
    """As if it had been loaded there."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync = both.sync()
        sync.session.fleet = _First(Answers(answer))
        with pytest.raises(kind) as told:
            sync.run(Options())
        assert told.value.code == code
        sync.map.close()


def test_a_file_that_is_begun_again_and_again_ends_the_try(tmp_path: Path) -> None:
    """Twenty times; the run stays where it is, to be taken up."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync = both.sync()
        answers = Answers({"end": "stopped"})
        fleet = _First(answers)
        sync.session.fleet = fleet
        with pytest.raises(TransientError) as told:
            sync.run(Options())
        assert told.value.code == "file-open"
        assert max(each.attempt for each in answers.given) == 20
        assert sync.store.look().run is not None
        sync.map.close()


def test_expired_links_are_exported_anew(tmp_path: Path) -> None:
    """Once, as in a run of one process."""
    with world(generate(1, 1), folder=tmp_path) as both:
        sync = both.sync()
        sync.session.fleet = _First(Answers({"end": "expired"}))
        with pytest.raises(PermanentError):
            sync.run(Options())
        assert len([each for each in both.source.requests if "$export" in each.path]) == 2
        sync.map.close()


def test_a_part_adds_to_a_run_what_it_brought() -> None:
    """Counts, bad lines and edits; through JSON, as another process tells it."""
    old, new = LocalEdit("Patient", "1", ("name",)), LocalEdit("Patient", "2", ("gender",))
    before = Run("r", 0.0, edits=EditList((old,), 2))
    after = replace(
        before,
        counts={"Patient": {"seen": 2, "updated": 1}},
        kept=1,
        overwritten=3,
        bad_lines=("a",),
        edits=EditList((new,), 5),
    )
    part = read_part(_through_json(part_of(before, after)))
    whole = add_part(replace(before, kept=4, bad_lines=("b",)), part)
    assert whole.edits == EditList((new,), 5)
    assert (whole.kept, whole.overwritten, whole.bad_lines) == (5, 3, ("b", "a"))
    assert whole.counts["Patient"]["seen"] == 2


def _through_json(part: Any) -> Json:
    from dataclasses import asdict  # noqa: PLC0415

    import orjson  # noqa: PLC0415

    document: Json = orjson.loads(orjson.dumps(asdict(part)))
    return document


def test_a_reconcile_that_several_load_deletes_what_is_gone_and_nothing_else(tmp_path: Path) -> None:
    """What each of them saw is in the map that all share."""
    source = generate(5, 1)
    with world(source, switches=Switches.general(deleted=False, part_size=3), folder=tmp_path) as both:
        shared_run(both)
        gone = sorted(source.entries["Observation"])[0]
        before = len(both.by_source_id("Observation"))
        source.delete("Observation", gone, at=both.source.now())
        state = shared_run(both, options=Options(reconcile=True))
        assert state.run is not None
        assert state.run.deleted == 1
        left = both.by_source_id("Observation")
        assert (gone in left, len(left)) == (False, before - 1)


def test_a_reconcile_in_steps_needs_no_folder_where_there_is_a_database(postgres_url: str) -> None:
    """Each step on another machine, as in Lambda: the map is in PostgreSQL."""
    source = generate(6, 1)
    with world(source, switches=Switches.general(deleted=False, part_size=6, polls=0)) as both:

        def step(options: Options) -> SyncState:
            within = Surroundings(place=postgres_url, seconds=0.3, sleep=lambda _: None)
            sync = both.sync(within=within)
            try:
                return sync.run(options)
            finally:
                sync.map.close()

        for options in (Options(), Options(reconcile=True)):
            steps = 0
            while (state := step(options)).run is None or not state.run.over:
                steps += 1
            assert state.run.phase == "done"
            if not options.reconcile:
                gone = sorted(source.entries["Patient"])[0]
                source.delete("Patient", gone, at=both.source.now())
        assert state.run is not None
        assert state.run.deleted == 1
        assert gone not in both.by_source_id("Patient")
