"""If a run is killed at any step, the next run resumes it, and the result is exact.

A step is a request to either side, or a transaction of the map or of the spool. From the step of the kill on, the
killed process does nothing: it neither releases its lease nor deletes its export.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.state.database import Database
from bot_layer.fhir.json import Json
from bot_layer.http.transport import Transport
from tests.bulk_sync.test_named_faults import change, small
from tests.bulk_sync.world import World, assert_adds_up, assert_exact, counts, observation, patient, run_as_bot

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths

SETTINGS = {"PF_RESOURCE_TYPES": "Patient,Observation", "PF_WORKERS": "1", "PF_MAX_DELETE_SHARE": "1"}
ORGANIZATION: Json = {"resourceType": "Organization", "id": "a1", "name": "Sample"}  # read one by one
SOURCE = (
    patient("p1", managingOrganization={"reference": "Organization/a1"}),
    observation("o1", hasMember=[{"reference": "Observation/o2"}]),
    observation("o2", derivedFrom=[{"reference": "Observation/o1"}]),
    ORGANIZATION,
)
EVERY = 3  # the steps are divided among so many tests


class Killed(BaseException):
    """The process is no more."""


class Life:
    """Counts the steps of a process; after the last one it can do nothing."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self._lock = threading.Lock()

    def step(self) -> None:
        """One step, if there is one left."""
        with self._lock:
            if self.left <= 0:
                raise Killed
            self.left -= 1

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Every step of the sync, counted."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in ((Transport, "open"), (Database, "changing")):
                patch.setattr(owner, name, self._counted(getattr(owner, name)))
            yield

    def _counted(self, inner: Callable[..., AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Any]]:
        @contextmanager
        def counted(*given: Any, **named: Any) -> Iterator[Any]:
            self.step()
            with inner(*given, **named) as value:
                yield value

        return counted


def killed_after(both: World, steps: int, options: Options) -> bool:
    """True if the run reached its kill."""
    life = Life(steps)
    try:
        with life.limited():
            both.run(options)
    except Killed:
        both.moved += 1000  # the lease of the dead process runs out
        return True
    return False


def taken_up(both: World, options: Options, before: str) -> SyncState:
    """The state after the run that follows ``before``, whichever process ended it."""
    sync = both.sync()
    state = sync.store.load()
    sync.map.close()
    over = state.run is not None and state.run.over and state.run.id != before
    return state if over else both.run(options)


def first(_both: World) -> str:
    """Nothing came before."""
    return ""


def later(both: World) -> str:
    """After a first run, whose id it is: a new resource, a change and a deletion."""
    run = both.run().run
    assert run is not None
    change(both, observation("o3"))
    change(both, observation("o1", status="amended", hasMember=[{"reference": "Observation/o3"}]))
    both.source.source.delete("Observation", "o2", at=both.source.now())
    return run.id


@pytest.mark.one_login
@pytest.mark.parametrize("part", range(EVERY))
@pytest.mark.parametrize(
    ("before", "options", "seen"),
    [(first, Options(), 4), (later, Options(), 2), (later, Options(reconcile=True), 3)],
    ids=["first", "incremental", "reconcile"],
)
def test_a_run_killed_at_any_step_ends_exact(
    before: Callable[[World], str], options: Options, seen: int, part: int, tmp_path: Path
) -> None:
    """Nothing is lost, duplicated or dangling; each resource is counted once; no export is left at the source."""
    run_as_bot(bot=part == 1)
    steps, alive = part, True
    while alive:
        with small(*SOURCE, folder=tmp_path / str(steps)) as both:
            both.settings.update(SETTINGS)
            last = before(both)
            exports = kickoffs(both)
            alive = killed_after(both, steps, options)
            state = taken_up(both, options, last)
            assert state.run is not None
            assert state.run.phase == "done", steps
            assert_adds_up(state)
            assert counts(state)["seen"] == seen, steps
            assert counts(state)["failed"] == 0, steps
            assert_exact(both)
            if both.source.jobs:
                both.run()  # the kill came between the end of the run and the deletion of its export
            # If the answer to a kick-off was not saved, its export is unknown; no other export is left there.
            assert len(both.source.jobs) <= max(0, kickoffs(both) - exports - 2), steps
        steps += EVERY


def kickoffs(both: World) -> int:
    """How many exports were requested from the source."""
    return sum("$export" in each.path for each in both.source.requests)
