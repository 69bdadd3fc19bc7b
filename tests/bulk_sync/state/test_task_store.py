"""The lease on a sync: one process works, the others get an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.task_store import LeaseLost, RunCancelled, SyncStore
from bot_layer.errors import TransientError
from bot_layer.medplum.client import connect_client
from bot_layer.medplum.quota import Pace
from medplum_sandbox.medplum import MedplumSandbox

SOURCE = "https://source.example/fhir"


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now


@pytest.fixture
def medplum() -> Iterator[MedplumSandbox]:
    """A Medplum."""
    with MedplumSandbox() as sandbox:
        yield sandbox


def store(medplum: MedplumSandbox, owner: str, clock: Clock, notes: SyncMap | None = None) -> SyncStore:
    """A store of one owner; leases last a minute."""
    login = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
    return SyncStore(login.in_bulk(Pace(0.8, lambda _: None)), SOURCE, owner, 60.0, clock=clock, map=notes)


def test_only_one_holds_the_lease_and_it_runs_out(medplum: MedplumSandbox) -> None:
    """The second gets an error; when the first lease expires, the second takes over and the first can't write."""
    clock = Clock()
    first, second = store(medplum, "a", clock), store(medplum, "b", clock)
    first.acquire()
    with pytest.raises(TransientError) as caught:
        second.acquire()
    assert caught.value.code == "sync-running"
    clock.now += 61
    second.acquire()
    with pytest.raises(LeaseLost):
        first.save(SyncState())
    with pytest.raises(LeaseLost):
        first.check()
    second.check()


def test_a_run_can_be_ended_whoever_has_the_lease(medplum: MedplumSandbox) -> None:
    """The holder gets an error at its next write; no run starts while the holder may not have seen it."""
    clock = Clock()
    first, second, third = (store(medplum, name, clock) for name in "abc")
    state = first.acquire()
    first.save(replace(state, run=Run("r", 0.0)))
    second.end(lambda state: replace(state, run=Run("r", 0.0, phase="cancelled")))
    with pytest.raises(RunCancelled):
        first.save(first.state)
    with pytest.raises(RunCancelled):
        first.check()
    with pytest.raises(TransientError) as caught:
        third.acquire()
    assert caught.value.code == "sync-running"
    clock.now += 61
    assert third.acquire().run == Run("r", 0.0, phase="cancelled")


def test_a_run_that_nobody_holds_is_ended_at_once(medplum: MedplumSandbox) -> None:
    """Also where another process writes at that moment: it is looked at once more."""
    clock = Clock()
    first, second = store(medplum, "a", clock), store(medplum, "b", clock)
    first.acquire()
    first.save(first.state, release=True)
    tries: list[SyncState] = []

    def ended(state: SyncState) -> SyncState:
        tries.append(state)
        if len(tries) == 1:
            first.save(replace(first.state, cache_id="x"), release=True)
        return replace(state, run=Run("r", 0.0, phase="cancelled"))

    second.end(ended)
    assert len(tries) == 2
    assert first.acquire().cache_id == "x"


def test_a_lease_is_renewed_before_it_ends_and_given_back(medplum: MedplumSandbox) -> None:
    """A working process keeps the lease; after its release, the next process need not wait."""
    clock = Clock()
    first = store(medplum, "a", clock)
    first.acquire()
    for _ in range(5):
        clock.now += 55
        first.check()
    first.save(first.state, release=True)
    store(medplum, "b", clock).acquire()


def test_an_expired_lease_is_kept_unless_another_run_took_it(medplum: MedplumSandbox) -> None:
    """The source may be slow for longer than a lease, and nothing is written in the meantime."""
    clock = Clock()
    first, second = store(medplum, "a", clock), store(medplum, "b", clock)
    first.acquire()
    clock.now += 1000
    first.check()
    with pytest.raises(TransientError):
        second.acquire()
    clock.now += 1000
    second.acquire()
    with pytest.raises(LeaseLost):
        first.check()


@pytest.mark.parametrize("kind", ["conflict", "server_error", "reset_before_write", "reset_after_write", "too_many"])
def test_a_write_of_the_state_gets_over_bad_answers(medplum: MedplumSandbox, kind: str) -> None:
    """Even if the write was done and its answer lost: the version that we wrote is recognized."""
    clock = Clock()
    first = store(medplum, "a", clock)
    first.acquire()
    medplum.faults.add(kind, times=1, method="PUT")
    first.save(replace(first.state, cache_id="x"))
    medplum.faults.add(kind, times=1, method="PUT")
    first.save(replace(first.state, cache_id="y"))
    assert store(medplum, "b", clock).load().cache_id == "y"


def test_two_that_begin_at_once_make_one_task(medplum: MedplumSandbox) -> None:
    """If-None-Exist lets one of them create it."""
    clock = Clock()
    first, second = store(medplum, "a", clock), store(medplum, "b", clock)
    assert first.load() == second.load() == SyncState()
    first.acquire()
    with pytest.raises(TransientError):
        second.acquire()
    assert len(list(first.medplum.search_all("Task", ""))) == 1


def finished(one: SyncStore, name: str) -> None:
    """A run that leaves this name in the state."""
    one.acquire()
    one.save(replace(one.state, cache_id=name), release=True)


def test_a_task_that_nobody_changed_need_not_be_read(medplum: MedplumSandbox) -> None:
    """The copy on this machine is of the same version: one request takes the lease, with the state."""
    clock, disk = Clock(), SyncMap()
    finished(store(medplum, "a", clock, disk), "first")
    before = len(medplum.requests)
    second = store(medplum, "b", clock, disk)
    assert second.acquire().cache_id == "first"
    asked = [each.method for each in medplum.requests[before:] if not each.path.endswith("token")]
    assert asked == ["PUT"]


def test_a_copy_that_is_out_of_date_is_not_believed(medplum: MedplumSandbox) -> None:
    """Another machine wrote since: its state counts, and nothing of it is overwritten."""
    clock, disk = Clock(), SyncMap()
    finished(store(medplum, "a", clock, disk), "first")
    finished(store(medplum, "b", clock, SyncMap()), "second")
    assert store(medplum, "c", clock, disk).acquire().cache_id == "second"
    # And a lease that another process took since then stays valid.
    with pytest.raises(TransientError) as caught:
        store(medplum, "d", clock, disk).acquire()
    assert caught.value.code == "sync-running"


def test_a_task_of_a_medplum_that_was_set_up_anew_is_made_anew(medplum: MedplumSandbox) -> None:
    """Same client, but no such Task: formerly each run was refused until a person deleted the map."""
    clock, disk = Clock(), SyncMap()
    finished(store(medplum, "a", clock, disk), "first")
    with MedplumSandbox() as other:
        assert store(other, "b", clock, disk).acquire().cache_id == ""


def test_a_task_that_was_deleted_is_made_anew(medplum: MedplumSandbox) -> None:
    """Whatever the copy says."""
    clock, disk = Clock(), SyncMap()
    first = store(medplum, "a", clock, disk)
    finished(first, "first")
    (task,) = first.medplum.search_all("Task", "")
    first.medplum.delete(f"Task/{task['id']}")
    assert store(medplum, "b", clock, disk).acquire().cache_id == ""
