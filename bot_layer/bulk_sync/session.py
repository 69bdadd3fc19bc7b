"""The context of every step of a sync: source and Medplum, the state of the run, and the remaining time."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from bot_layer.bulk_sync.options import Surroundings
from bot_layer.bulk_sync.rules.bulk_export import Manifest
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.spool import Spool
from bot_layer.bulk_sync.state.task_store import SyncStore
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import TransientError
from bot_layer.medplum.client import Medplum

SAVE_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 20.0


class Halted(Exception):
    """The time limit was reached, or a stop was requested: progress is kept, and the next step does the rest."""


class Session:
    """One source, one Medplum and the current run. The steps are functions with this argument.

    ``about`` distinguishes servers, and the projects of one server, that share a folder.
    """

    def __init__(
        self, settings: SyncSettings, login: Medplum, *, within: Surroundings | None = None, about: str = ""
    ) -> None:
        around = within or Surroundings()
        self.settings = settings
        self.log, self.progress, self.stop = around.log, around.progress, around.stop
        self.clock, self.timer, self._sleep = around.clock, around.timer, around.sleep
        self._deadline = None if around.seconds is None else self.timer() + around.seconds
        self.source = PracticeFusion(settings, wait=self.pause, clock=self.clock, log=self.log, keeper=around.keeper)
        self.medplum = MedplumWriter(
            login,
            settings.source,
            share=settings.quota_share,
            workers=settings.workers,
            max_bytes=settings.max_batch_bytes,
            policy=settings.local_edits,
            conditional=settings.upsert == "conditional",
            wait=self.pause,
            clock=self.timer,
        )
        # The name of the map and the spool reveals neither the source nor the project.
        digest = hashlib.blake2b(f"{settings.source} {about}".encode(), digest_size=12).hexdigest()
        if around.place and not is_shared(around.place):
            folder = Path(around.place)
            self.map = SyncMap(folder / f"pf-sync-{digest}.sqlite", key=around.key)
            self.spool = Spool(folder / f"pf-sync-{digest}.spool", key=around.key)
        else:
            folder = Path(tempfile.gettempdir()) / f"medplum-bots-{os.getuid()}"
            self.map = SyncMap(url=around.place, schema=f"pf_sync_{digest}", key=around.key)
            self.spool = Spool(folder / f"pf-sync-{digest}.spool", key=around.key, private=True)
        self.store = SyncStore(
            self.medplum.server,
            settings.source,
            uuid.uuid4().hex,
            settings.lease_seconds,
            clock=self.clock,
            map=self.map,
        )
        self.medplum.batches.may_write = self.store.check
        # Stores failures with the Task and returns their reference; called before a position after them is saved.
        self.keep_failures: Callable[[SyncState], str] = lambda state: state.failures
        self.manifest: Manifest | None = None  # of the current job, once its export is complete
        self.sole_writer = False  # True once this process has started a run, rather than resumed one
        self._saved_at = self.timer()

    # -- State

    @property
    def current(self) -> Run:
        """The current run."""
        run = self.store.state.run
        if run is None:
            raise AssertionError("there is a run")
        return run

    @property
    def job(self) -> Job:
        """The current job."""
        job = self.current.job
        if job is None:
            raise AssertionError("there is a job")
        return job

    def save(self, run: Run, state: SyncState | None = None) -> SyncState:
        """Save the run to Medplum now."""
        with self.store.lock:
            self._saved_at = self.timer()
            state = replace(state or self.store.state, run=run)
            saved = self.store.save(replace(state, failures=self.keep_failures(state)))
            if self.map.note("cache_id") != saved.cache_id:
                self.map.write_note("cache_id", saved.cache_id)
            return saved

    def keep(self, run: Run) -> SyncState:
        """Keep the run, and save it to Medplum at intervals."""
        with self.store.lock:
            self.store.state = replace(self.store.state, run=run)
            return self.save(run) if self.timer() - self._saved_at > SAVE_SECONDS else self.store.state

    def change(self, change: Callable[[Run], Run]) -> SyncState:
        """Change the current run and keep it: several threads report their results."""
        with self.store.lock:
            return self.keep(change(self.current))

    def end_file(self, file: FileState, change: Callable[[Run], Run]) -> SyncState:
        """Record that a file was processed, with its results: once, even if it is read again."""

        def ended(run: Run) -> Run:
            files = self.job.files
            if any(each.place == file.place and each.done for each in files):
                return run
            files = tuple(replace(each, done=True) if each.place == file.place else each for each in files)
            return change(run).with_job(replace(self.job, files=files))

        return self.change(ended)

    def show(self, counts: Mapping[str, Mapping[str, int]], expected: int | None = None) -> None:
        """Report counts to the progress display."""
        for kind, row in counts.items():
            self.progress("file", kind, row.get("seen", 0), expected)

    # -- Time

    def halted(self) -> bool:
        """True once the time limit is reached, or a stop was requested."""
        return self.stop.is_set() or (self._deadline is not None and self.timer() >= self._deadline)

    def check_time(self) -> None:
        """Raise Halted if it is time to stop."""
        if self.halted():
            raise Halted

    def pause(self, seconds: float) -> None:
        """Wait, at most until the time limit or a stop, which then raises Halted."""
        if self._sleep is not None:
            self._sleep(seconds)
        else:
            left = seconds if self._deadline is None else self._deadline - self.timer()
            self.stop.wait(max(min(seconds, left), 0.0))
        self.check_time()

    def wait(self, seconds: float) -> None:
        """Wait, or raise Halted now if the time limit would be reached by then."""
        if self._deadline is not None and self.timer() + seconds >= self._deadline:
            raise Halted
        self.pause(seconds)

    @contextmanager
    def grace(self) -> Iterator[None]:
        """Allow a short wait for Medplum after the time limit, so that progress is saved."""
        pace, left = self.medplum.pace, _GRACE_SECONDS

        def wait(seconds: float) -> None:
            nonlocal left
            left -= seconds
            if left < 0:
                raise TransientError("Medplum stayed busy while the progress was to be saved.", service="Medplum")
            (self._sleep or time.sleep)(seconds)

        pace.wait = wait
        try:
            yield
        finally:
            pace.wait = self.pause


def is_shared(place: str) -> bool:
    """True for the URL of a database that several machines can open."""
    return place.startswith(("postgresql:", "postgresql+", "postgres:"))


def load_state(settings: SyncSettings, server: Medplum) -> SyncState:
    """The state of this source's sync, read from Medplum."""
    return SyncStore(server, settings.source, owner="").load()


def login_name(server: Medplum) -> str:
    """A name that distinguishes this login on this server from others, for ``about``."""
    return f"{str(server.client.base_url).rstrip('/')} {server.client.client_id}"
