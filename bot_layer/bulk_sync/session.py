"""The context of every step of a sync: source and Medplum, the state of the run, and the remaining time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from bot_layer.bulk_sync.rules.bulk_export import Manifest
from bot_layer.bulk_sync.rules.importable_types import not_importable
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.time_stamps import is_instant
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.spool import Spool
from bot_layer.bulk_sync.state.task_store import SyncStore
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import InputError, TransientError
from bot_layer.fhir.references import is_id

SAVE_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 20.0
Progress = Callable[[str, str, int, int | None], None]


class Halted(Exception):
    """The time limit was reached, or a stop was requested: progress is kept, and the next step does the rest."""


@dataclass(frozen=True)
class Options:
    """The options of one call."""

    full: bool = False
    types: tuple[str, ...] = ()
    since: str = ""
    reconcile: bool = False
    retry_failed: bool = False
    overwrite_reported: bool = False
    job: str = ""  # the status URL of an export that was started elsewhere
    patients: tuple[str, ...] = ()  # the source ids of the only patients of this run
    elements: tuple[str, ...] = ()  # for a preview: the only elements that the source sends

    def __post_init__(self) -> None:
        if not all(map(is_id, self.patients)):
            raise InputError(
                "Give the ids that the patients have at the source.",
                code="patient-unreadable",
                expression=["Parameters.parameter.where(name='patient')"],
            )
        if self.patients and (self.reconcile or self.job):
            # A reconcile deletes what the export does not contain.
            raise InputError(
                "A run of some patients can't be a reconcile, nor load another export.", code="not-together"
            )
        if forbidden := not_importable(self.types):
            raise InputError(
                f"No source may write {', '.join(forbidden)}: name clinical and administrative types only.",
                code="type-not-allowed",
                expression=["Parameters.parameter.where(name='resourceTypes')"],
            )
        if self.since and not is_instant(self.since):
            # A source answers it with 400, as it does for a level that it does not offer.
            raise InputError(
                "Give since as a moment with its time zone, such as 2026-01-31T00:00:00Z.",
                code="since-unreadable",
                expression=["Parameters.parameter.where(name='since')"],
            )


@dataclass
class Session:
    """One source, one Medplum and the current run. The steps are functions with this argument."""

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
    # Stores failures with the Task and returns their reference; called before a position after them is saved.
    keep_failures: Callable[[SyncState], str] = lambda state: state.failures

    def __post_init__(self) -> None:
        self.manifest: Manifest | None = None  # of the current job, once its export is complete
        self.alone = False  # True once this process has started a run, rather than resumed one
        self._saved_at = self.timer()
        self.medplum.batches.may_write = self.store.check

    # -- State

    @property
    def lock(self) -> threading.RLock:
        """The lock for changes of the run: several files are loaded at once."""
        return self.store.lock

    @property
    def run(self) -> Run:
        """The current run."""
        run = self.store.state.run
        if run is None:
            raise AssertionError("there is a run")
        return run

    @property
    def job(self) -> Job:
        """The current job."""
        return job_of(self.run)

    def save(self, run: Run, state: SyncState | None = None) -> SyncState:
        """Save the run to Medplum now."""
        with self.lock:
            self._saved_at = self.timer()
            state = replace(state or self.store.state, run=run)
            saved = self.store.save(replace(state, failures=self.keep_failures(state)))
            if self.map.note("cache_id") != saved.cache_id:
                self.map.write_note("cache_id", saved.cache_id)
            return saved

    def keep(self, run: Run) -> SyncState:
        """Keep the run, and save it to Medplum at intervals."""
        with self.lock:
            self.store.state = replace(self.store.state, run=run)
            if self.timer() - self._saved_at > SAVE_SECONDS:
                return self.save(run)
            return self.store.state

    # -- Time

    def halted(self) -> bool:
        """True once the time limit is reached, or a stop was requested."""
        return self.stop.is_set() or (self.deadline is not None and self.timer() >= self.deadline)

    def check_time(self) -> None:
        """Raise Halted if it is time to stop."""
        if self.halted():
            raise Halted

    @contextmanager
    def grace(self) -> Iterator[None]:
        """Allow a short wait for Medplum after the time limit, so that progress is saved."""
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
        """Wait, or raise Halted now if the time limit would be reached by then."""
        if self.deadline is not None and self.timer() + seconds >= self.deadline:
            raise Halted
        self.source.wait(seconds)
        self.check_time()


def job_of(run: Run) -> Job:
    """The current job of a run."""
    job = run.job
    if job is None:
        raise AssertionError("there is a job")
    return job
