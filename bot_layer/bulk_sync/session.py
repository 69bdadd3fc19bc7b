"""What every step of a sync works with: both ends, the state of the run, and the time that is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from bot_layer.bulk_sync.rules.brought_types import not_brought
from bot_layer.bulk_sync.rules.bulk_export import Manifest
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.source_identity import is_source_id
from bot_layer.bulk_sync.rules.time_stamps import is_instant
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.spool import Spool
from bot_layer.bulk_sync.state.task_store import SyncStore
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import InputError, TransientError

SAVE_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 20.0
Progress = Callable[[str, str, int, int | None], None]


class Halted(Exception):
    """The time is over, or somebody asked to stop: what was done is kept, the rest is for the next step."""


@dataclass(frozen=True)
class Options:
    """What one call asks for."""

    full: bool = False
    types: tuple[str, ...] = ()
    since: str = ""
    reconcile: bool = False
    retry_failed: bool = False
    overwrite_reported: bool = False
    job: str = ""  # the status URL of an export that somebody else started
    patients: tuple[str, ...] = ()  # the source's ids of the only patients that this run is about

    elements: tuple[str, ...] = ()  # of a preview: the only elements that the source sends

    def __post_init__(self) -> None:
        if not all(map(is_source_id, self.patients)):
            raise InputError(
                "Give the ids that the patients have at the source.",
                code="patient-unreadable",
                expression=["Parameters.parameter.where(name='patient')"],
            )
        if self.patients and (self.reconcile or self.job):
            # A reconcile deletes what it does not see.
            raise InputError(
                "A run of some patients can't be a reconcile, nor load another export.", code="not-together"
            )
        if forbidden := not_brought(self.types):
            raise InputError(
                f"No source may write {', '.join(forbidden)}: name clinical and administrative types only.",
                code="type-not-allowed",
                expression=["Parameters.parameter.where(name='resourceTypes')"],
            )
        if self.since and not is_instant(self.since):
            # A source answers 400 to it, as it does to a level that it does not offer.
            raise InputError(
                "Give since as a moment with its time zone, such as 2026-01-31T00:00:00Z.",
                code="since-unreadable",
                expression=["Parameters.parameter.where(name='since')"],
            )


@dataclass
class Session:
    """One source and one Medplum, with the run between them. The steps are functions that are given this."""

    settings: SyncSettings
    source: PracticeFusion
    medplum: MedplumWriter
    store: SyncStore
    map: SyncMap
    spool: Spool = field(default_factory=Spool)
    log: Log = lambda _component, _text: None
    progress: Progress = lambda _kind, _name, _done, _total: None
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
    deadline: float | None = None
    sleep: Callable[[float], None] = time.sleep
    # Puts what failed beside the Task, and tells where: asked before a place in a file is written that lies behind it.
    keep_failures: Callable[[SyncState], str] = lambda state: state.failures

    def __post_init__(self) -> None:
        self.manifest: Manifest | None = None  # of the current job, once its export is complete
        self.alone = False  # True once this process has begun a run, rather than taken up one that broke off
        self._saved_at = self.timer()
        self.medplum.batches.may_write = self.store.check

    # -- State

    @property
    def lock(self) -> threading.RLock:
        """Held while the run is changed: several files are loaded at once."""
        return self.store.lock

    @property
    def run(self) -> Run:
        """The run that is under way."""
        run = self.store.state.run
        if run is None:
            raise AssertionError("there is a run")
        return run

    @property
    def job(self) -> Job:
        """The job whose turn it is."""
        return job_of(self.run)

    def save(self, run: Run, state: SyncState | None = None) -> SyncState:
        """Write the run to Medplum now."""
        with self.lock:
            self._saved_at = self.timer()
            state = replace(state or self.store.state, run=run)
            saved = self.store.save(replace(state, failures=self.keep_failures(state)))
            if self.map.note("cache_id") != saved.cache_id:
                self.map.write_note("cache_id", saved.cache_id)
            return saved

    def keep(self, run: Run) -> SyncState:
        """Remember, and write it to Medplum now and then."""
        with self.lock:
            self.store.state = replace(self.store.state, run=run)
            if self.timer() - self._saved_at > SAVE_SECONDS:
                return self.save(run)
            return self.store.state

    # -- Time

    def halted(self) -> bool:
        """True once the time is over, or somebody asked to stop."""
        return self.stop.is_set() or (self.deadline is not None and self.timer() >= self.deadline)

    def check_time(self) -> None:
        """Halted, if it is time to stop."""
        if self.halted():
            raise Halted

    @contextmanager
    def grace(self) -> Iterator[None]:
        """Let Medplum be waited for a little, though the time is over: what was done is to be kept."""
        pace, left = self.medplum.pace, _GRACE_SECONDS
        hurried = pace.wait

        def wait(seconds: float) -> None:
            nonlocal left
            left -= seconds
            if left < 0:
                raise TransientError("Medplum stayed busy while the place was to be kept.", service="Medplum")
            self.sleep(seconds)

        pace.wait = wait
        try:
            yield
        finally:
            pace.wait = hurried

    def wait(self, seconds: float) -> None:
        """Wait; or stop now, if the time would be over by then."""
        if self.deadline is not None and self.timer() + seconds >= self.deadline:
            raise Halted
        self.source.wait(seconds)
        self.check_time()


def job_of(run: Run) -> Job:
    """The job whose turn it is in this run."""
    job = run.job
    if job is None:
        raise AssertionError("there is a job")
    return job
