"""Failures are stored together with the progress in the files, even if no map outlives the process."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from bot_layer.bulk_sync import engine, session
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.failures import store_failures, stored_failures
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.ndjson import resource_of
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.session import load_state
from bot_layer.bulk_sync.state.id_map import Failure, SyncMap
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.errors import TransientError
from medplum_sandbox.practice_fusion import Switches
from tests.bulk_sync.test_named_faults import small
from tests.bulk_sync.world import World, observation, patient

REFUSED = observation("o1", shoeSize=1)
OTHERS = [observation(f"x{number}") for number in range(30)]


class Killed(BaseException):
    """The process was killed."""


def killed(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a folder that is killed when every file was loaded, and wrote its place down at each step."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(session, "SAVE_SECONDS", -1.0)
        patched.setattr(engine, "finish", die)
        patched.setattr(engine, "_release_lease", lambda _: None)
        with pytest.raises(Killed):
            both.sync().run(Options())


def later(both: World) -> Sync:
    """The next process, when the lease has run out."""
    return both.sync(within=Surroundings(sleep=both.sleep, timer=both.timer, clock=lambda: time.time() + 1000))


def test_a_killed_process_takes_no_failure_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process continues after the handled lines: what Medplum refused of these is stored beside the Task."""
    with small(patient("p1"), REFUSED, *OTHERS, switches=Switches.general(part_size=10)) as both:
        killed(both, monkeypatch)
        sync = later(both)
        assert sync.run(Options()).failures
        assert [each.key.id for each in sync.map.failures()] == ["o1"]


def test_a_renewed_lease_takes_no_place_along() -> None:
    """The lease is renewed in the middle of writing: the place is written with what failed, or not at all."""
    with small(patient("p1")) as both:
        sync = both.sync()
        state = sync.store.acquire()
        sync.store.state = replace(state, last_success=1.0)
        sync.store.clock = lambda: time.time() + sync.store.lease_seconds - 1
        sync.store.check()
        assert load_state(sync.settings, sync.medplum.server).last_success == 0.0
        assert load_state(sync.settings, sync.medplum.server).until == sync.store.state.until > state.until
        assert sync.store.state.last_success == 1.0


@pytest.mark.parametrize("busy", [1, 1000])
def test_a_step_whose_time_is_over_still_puts_its_failures_aside(busy: int) -> None:
    """Medplum is busy at that moment: it is waited for a little, or else the lines are handled once more."""
    with small(patient("p1"), REFUSED) as both:
        stop = threading.Event()

        def progress(kind: str, name: str, _done: int, _total: int | None) -> None:
            if (kind, name) == ("file", "Observation"):
                both.medplum.faults.add("server_error", status=503, times=busy, method="POST", path="/fhir/R4")
                stop.set()

        sync = both.sync(within=Surroundings(sleep=both.sleep, timer=both.timer, progress=progress, stop=stop))
        if busy == 1:
            sync.run(Options())
        else:
            with pytest.raises(TransientError):
                sync.run(Options())
        both.medplum.faults.clear()
        assert load_state(sync.settings, sync.medplum.server).owner == ""
        assert both.run().failures


def test_more_failures_than_fit_into_memory_are_read_in_batches() -> None:
    """The source may send a type that Medplum refuses altogether."""
    keys = [Key(kind, f"x{number}") for kind in ("A", "B") for number in range(1000)]
    kept = SyncMap()
    kept.record((), failures=(Failure(key, 400, "why", b"{}") for key in keys))
    found = kept.failures()
    assert next(found).key == Key("A", "x0")
    assert len({each.key for each in found}) == len(keys) - 1
    kept.close()


def test_a_source_that_reverts_a_change_ends_the_failure(tmp_path: Path) -> None:
    """What the source sends equals Medplum's content: otherwise --retry-failed would import the refused version."""
    texts = [b'{"resourceType":"Patient","id":"p"}', b'{"resourceType":"Patient","id":"p","shoeSize":1}']
    with small(patient("p1"), folder=tmp_path) as both:
        sync = both.sync()
        sync.store.acquire()
        loader = UpsertWorker(sync, Run("r", 0.0))
        for text in (*texts, texts[0]):
            loader.load([resource_of(orjson.loads(text), raw=text)])
        assert not list(sync.map.failures())
        sync.map.close()


def test_to_put_failures_aside_waits_for_no_batch() -> None:
    """The lease is not renewed while a batch is written, and the writer of a batch may be waiting for a renewal."""
    with small(patient("p1")) as both:
        sync = both.sync()
        state = sync.store.acquire()
        sync.map.record((), failures=[Failure(Key("Patient", "x"), 400, "why", b"{}")])
        kept: list[str] = []
        saver = threading.Thread(target=lambda: kept.append(store_failures(sync, state)), daemon=True)
        with ExitStack() as stack:
            for _ in range(4):  # so many batches are admitted at first
                stack.enter_context(sync.medplum.batches.gate.turn(1))
            saver.start()
            saver.join(240)
            assert kept
        sync.map.close()


def test_with_another_key_the_refused_resources_stay(tmp_path: Path) -> None:
    """The Binary beside the Task still has the resource: the map gets it from there, and the other key opens it."""
    with small(patient("p1"), REFUSED) as both:

        def sync(key: str) -> Sync:
            return both.sync(within=Surroundings(place=str(tmp_path), sleep=both.sleep, key=key))

        before = sync("k" * 32).run(Options())
        stored = stored_failures(sync(""), before)
        after = sync("another key").run(Options())
        assert stored_failures(sync(""), after) == stored
        assert [each.key.id for each in stored if each.resource] == ["o1"]
        assert list(sync("another key").map.failures()) == stored


def test_a_refused_resource_that_only_the_map_has_is_never_replaced_by_nothing(tmp_path: Path) -> None:
    """The run was killed before it stored the failure in Medplum, and later runs have another key."""
    with small(patient("p1")) as both:

        def sync(key: str) -> Sync:
            return both.sync(within=Surroundings(place=str(tmp_path), sleep=both.sleep, key=key, log=both._log))

        before = sync("k" * 32)
        before.run(Options())
        failure = Failure(Key("Observation", "o1"), 400, "why", orjson.dumps(REFUSED))
        before.map.record((), failures=[failure])
        for _ in range(3):
            sync("another key").run(Options())
        assert any("1 refused resources in the map can't be read" in line for line in both.logged)
        assert list(sync("k" * 32).map.failures()) == [failure]
