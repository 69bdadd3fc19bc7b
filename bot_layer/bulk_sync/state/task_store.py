"""The sync's Task in Medplum: one for each source, held by a lease so that two runs never write at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from urllib.parse import quote

import orjson

from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.task import TASK_SYSTEM, from_task, to_task
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
    """Somebody else works now: nothing more is written."""

    default_code = "lease-lost"


class RunCancelled(LeaseLost):
    """Somebody ended the run that this process held."""


class Copy(Protocol):
    """Where this machine keeps a text from run to run."""

    def note(self, name: str) -> str:
        """The text, or an empty one."""

    def write_note(self, name: str, value: str) -> None:
        """Keep the text."""


@dataclass
class SyncStore:
    """Reads and writes the Task. ``clock`` is the time of day, which two machines share more or less.

    ``copy`` spares a question: a Task that is still of the version which this machine wrote last need not be read.
    """

    medplum: Medplum
    source: str
    owner: str
    lease_seconds: float = LEASE_SECONDS
    clock: Callable[[], float] = field(default=time.time, repr=False)
    copy: Copy | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._task: Json | None = None
        self._server = replace(self.medplum, patience=_PATIENCE)
        self.lock = threading.RLock()
        self.state = SyncState()
        self.written = self.state  # as Medplum holds it

    def load(self) -> SyncState:
        """The state as Medplum holds it."""
        task = self._found()
        with self.lock:
            self._task = task
            self.state = self.written = from_task(task)
            return self.state

    def look(self) -> SyncState:
        """The state as Medplum holds it, for one who only looks: what this store holds stays as it is."""
        return from_task(self._found())

    def _found(self) -> Json | None:
        query = f"identifier={quote(TASK_SYSTEM, safe=':/')}%7C{quote(self.source, safe=':/')}&_sort=_lastUpdated"
        found = list(self.medplum.search_all("Task", query))
        return min(found, key=lambda each: str(each["id"])) if found else None

    def acquire(self) -> SyncState:
        """The state, and the lease on it; TransientError ``sync-running`` while somebody else has it."""
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
        """The state as ``ended`` makes it, whoever holds the run: they write nothing more once they see it.

        They look before their lease runs out; until then nobody else begins.
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
        """What ``write`` returns, which reads and writes the Task; again at once where somebody else wrote between."""
        try:
            return compare_and_set(write, tries=8, when=lambda fault: isinstance(fault, LeaseLost))
        except LeaseLost as fault:
            text = "Other runs keep writing the Task; try again later."
            raise TransientError(text, service=SERVICE, code="sync-running") from fault

    def _at_hand(self) -> SyncState:
        """The state as it was last read or written here, unless somebody holds it: If-Match tells if it still is."""
        with self.lock:
            if self._task is None and self.copy is not None and (text := self.copy.note(_COPY)):
                self._task = orjson.loads(text)
                self.state = self.written = from_task(self._task)
            if self._task is not None and self.state.held_by_other(self.owner, self.clock()):
                return self.load()
            return self.state

    def save(self, state: SyncState, *, release: bool = False) -> SyncState:
        """Write the state and renew the lease (or give it back); LeaseLost if somebody else wrote meanwhile."""
        with self.lock:
            self._write(state, until=0.0 if release else self.clock() + self.lease_seconds)
            if release and self.copy is not None:
                self.copy.write_note(_COPY, orjson.dumps(self._task).decode())
            self.state = self.written
            return self.state

    def _write(self, state: SyncState, *, until: float) -> None:
        state = replace(state, owner=self.owner if until else "", until=until)
        task = self._task
        if task is None:
            raise AssertionError("a lease is acquired first")
        self._task = self._put(task, to_task(state, self.source, task=_bare(task)))
        self.written = state

    def check(self) -> None:
        """LeaseLost unless the lease is good for a while: asked before each write."""
        if self.clock() > self.state.until - self.lease_seconds / 6:
            self.renew()

    def renew(self) -> None:
        """Hold the lease longer, without touching the state.

        One that ran out while nothing was written (the source was slow) is still held unless somebody took it: then
        the Task is of another version, and If-Match says so.
        """
        with self.lock:
            if self.clock() > self.state.until - self.lease_seconds / 6:
                # Nothing but the lease: what was done since is written by whoever has seen to all that belongs to it.
                self._write(self.written, until=self.clock() + self.lease_seconds)
                self.state = replace(self.state, owner=self.written.owner, until=self.written.until)

    def _put(self, task: Json, body: Json) -> Json:
        """The Task as stored: compare and set by its version. LeaseLost if somebody else wrote it meanwhile."""
        where = f"Task/{task['id']}"
        try:
            return self._server.update({**body, "meta": {"versionId": task["meta"]["versionId"]}})
        except (InputError, ServiceError) as fault:
            status = 404 if isinstance(fault, InputError) else fault.status
            if status not in (404, 410, 412):
                raise
        current = self.medplum.find(where)
        if current is None:
            raise self._lost()  # it was deleted, or Medplum was set up anew
        now, ours = from_task(current), from_task(body)
        if now == ours:
            return current  # our own write, whose answer was lost
        raise self._lost(cancelled=_is_cancelled(now.run, ours.run))

    def _create(self) -> SyncState:
        """The state of the Task. If there is none, it is created with our lease: of two that try, one does so.

        LeaseLost where Medplum can't tell; then the Task is searched for.
        """
        query = f"identifier={quote(TASK_SYSTEM, safe=':/')}%7C{quote(self.source, safe=':/')}"
        ours = SyncState(owner=self.owner, until=self.clock() + self.lease_seconds)
        try:
            task = self._server.create_once(to_task(ours, self.source), query)
        except TransientError as fault:
            raise self._lost() from fault
        with self.lock:
            self._task = task
            self.state = self.written = from_task(task)
            return self.state

    def _lost(self, *, cancelled: bool = False) -> LeaseLost:
        # Whatever else this process was about to write asks once more, and does not.
        self.state = replace(self.state, owner="", until=0.0)
        if cancelled:
            return RunCancelled("The run was cancelled.", service=SERVICE, method="PUT", path="Task/{id}")
        return LeaseLost("Another run took over this sync.", service=SERVICE, method="PUT", path="Task/{id}")


def _bare(task: Json) -> Json:
    return {name: value for name, value in task.items() if name not in ("meta", "output", "executionPeriod")}


def _is_cancelled(now: Run | None, ours: Run | None) -> bool:
    return now is not None and ours is not None and now.id == ours.id and now.phase == "cancelled"
