"""The sync's Task in Medplum: one for each source, with a lease so that two runs never write at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

import orjson

from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.task import TASK_SYSTEM, from_task, to_task
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.errors import InputError, ServiceError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.retry import compare_and_set
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.wire import SERVICE

LEASE_SECONDS: Final = 120.0
_COPY: Final = "task"
_PATIENCE: Final = RetryPolicy(retries=9, backoff=0.05, longest_wait=5.0)


class LeaseLost(TransientError):
    """Another process has the lease now: this one must not write any more."""

    default_code = "lease-lost"


class RunCancelled(LeaseLost):
    """The run of this process was cancelled."""


@dataclass
class SyncStore:
    """Reads and writes the Task. ``clock`` is the wall clock, which is roughly the same on two machines.

    The copy of the Task in the map saves a read, if the Task still has the version that this machine wrote last.
    """

    medplum: Medplum
    source: str
    owner: str
    lease_seconds: float = LEASE_SECONDS
    clock: Callable[[], float] = field(default=time.time, repr=False)
    map: SyncMap | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._task: Json | None = None
        self._server = replace(self.medplum, patience=_PATIENCE)
        self.lock = threading.RLock()
        self.state = SyncState()
        self.written = self.state  # as stored in Medplum

    def load(self) -> SyncState:
        """The state read from Medplum."""
        found = list(self.medplum.search_all("Task", f"{self._query}&_sort=_lastUpdated"))
        return self._read(min(found, key=lambda each: str(each["id"]), default=None))

    @property
    def _query(self) -> str:
        return f"identifier={quote(TASK_SYSTEM, safe=':/')}%7C{quote(self.source, safe=':/')}"

    def _read(self, task: Json | None) -> SyncState:
        with self.lock:
            self._task = task
            self.state = self.written = from_task(task)
            return self.state

    def acquire(self) -> SyncState:
        """The state, with the lease acquired; TransientError ``sync-running`` while another process has it."""
        is_first = True

        def take() -> SyncState:
            nonlocal is_first
            state, is_first = self._at_hand() if is_first else self.load(), False
            if self._task is None:
                state = self._create()
                if state.owner == self.owner:
                    return state
            now = self.clock()
            if state.held_by_other(self.owner, now):
                raise TransientError(
                    "Another run of this sync is at work; it ends or its lease runs out.",
                    service=SERVICE,
                    code="sync-running",
                    retry_after=max(state.until - now, 1.0),
                )
            return self.save(state)

        return self._written(take)

    def end(self, ended: Callable[[SyncState], SyncState]) -> SyncState:
        """End the run with the state from ``ended``, whichever process runs it: that process stops writing once it sees
        this.

        It checks before its lease expires; until then no other process starts.
        """

        def end() -> SyncState:
            state = self.load()
            until = state.until if state.held_by_other(self.owner, self.clock()) else 0.0
            with self.lock:
                self._write(ended(state), until=until)
                self.state = self.written
                return self.state

        return self._written(end)

    @staticmethod
    def _written(write: Callable[[], SyncState]) -> SyncState:
        """The result of ``write``, which reads and writes the Task; retried immediately if another process wrote in
        between."""
        try:
            return compare_and_set(write, tries=8, when=lambda fault: isinstance(fault, LeaseLost))
        except LeaseLost as fault:
            text = "Other runs keep writing the Task; try again later."
            raise TransientError(text, service=SERVICE, code="sync-running") from fault

    def _at_hand(self) -> SyncState:
        """The state last read or written here, unless a process has the lease: If-Match shows if it is still
        current."""
        with self.lock:
            if self._task is None and self.map is not None and (text := self.map.note(_COPY)):
                self._read(orjson.loads(text))
            if self._task is not None and self.state.held_by_other(self.owner, self.clock()):
                return self.load()
            return self.state

    def save(self, state: SyncState, *, release: bool = False) -> SyncState:
        """Write the state and renew or release the lease; LeaseLost if another process has written since."""
        with self.lock:
            self._write(state, until=0.0 if release else self.clock() + self.lease_seconds)
            if release and self.map is not None:
                self.map.write_note(_COPY, orjson.dumps(self._task).decode())
            self.state = self.written
            return self.state

    def _write(self, state: SyncState, *, until: float) -> None:
        state = replace(state, owner=self.owner if until else "", until=until)
        task = self._task
        if task is None:
            raise AssertionError("a lease is acquired first")
        bare = {name: each for name, each in task.items() if name not in ("meta", "output", "executionPeriod")}
        self._task = self._put(task, to_task(state, self.source, task=bare))
        self.written = state

    def check(self) -> None:
        """Renew the lease if it ends soon, without changing the state; called before each write to Medplum.

        A lease that expired while nothing was written (the source was slow) is still ours unless another process took
        it: then the Task has another version, and If-Match fails with LeaseLost.
        """
        if self._is_fresh():
            return  # without the lock: its holder may wait for this write
        with self.lock:
            if not self._is_fresh():
                # Only the lease: progress since the last save is written by the code that has completed it.
                self._write(self.written, until=self.clock() + self.lease_seconds)
                self.state = replace(self.state, owner=self.written.owner, until=self.written.until)

    def _is_fresh(self) -> bool:
        return self.clock() <= self.state.until - self.lease_seconds / 6

    def _put(self, task: Json, body: Json) -> Json:
        """Compare and set the Task by its version; returns the stored Task. LeaseLost if another process has written it
        since."""
        try:
            return self._server.update({**body, "meta": {"versionId": task["meta"]["versionId"]}})
        except (InputError, ServiceError) as fault:
            status = 404 if isinstance(fault, InputError) else fault.status
            if status not in (404, 410, 412):
                raise
        current = self.medplum.find(f"Task/{task['id']}")
        if current is None:
            raise self._lost()  # it was deleted, or Medplum was reinstalled
        now, ours = from_task(current), from_task(body)
        if now == ours:
            return current  # our own write, whose answer was lost
        raise self._lost(cancelled=_is_cancelled(now.run, ours.run))

    def _create(self) -> SyncState:
        """The state of the Task. If there is none, it is created with our lease: only one of two processes succeeds.

        LeaseLost if Medplum's answer is not clear; then the Task is searched for.
        """
        ours = SyncState(owner=self.owner, until=self.clock() + self.lease_seconds)
        try:
            task = self._server.create_once(to_task(ours, self.source), self._query)
        except TransientError as fault:
            raise self._lost() from fault
        return self._read(task)

    def _lost(self, *, cancelled: bool = False) -> LeaseLost:
        # From now on, every other write of this process fails its lease check.
        self.state = replace(self.state, owner="", until=0.0)
        fault = RunCancelled if cancelled else LeaseLost
        text = "The run was cancelled." if cancelled else "Another run took over this sync."
        return fault(text, service=SERVICE, method="PUT", path="Task/{id}")


def _is_cancelled(now: Run | None, ours: Run | None) -> bool:
    return now is not None and ours is not None and now.id == ours.id and now.phase == "cancelled"
