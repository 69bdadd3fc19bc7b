"""One sync, step by step: kick off, poll, load, repair, commit. It may stop at any point and resume on any machine."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, replace
from functools import partial

from bot_layer.bulk_sync import previewing
from bot_layer.bulk_sync.beginning import begin, use_scopes
from bot_layer.bulk_sync.commit import finish
from bot_layer.bulk_sync.failures import store_failures
from bot_layer.bulk_sync.load_files import is_on_disk, load_files, load_searched, load_spooled
from bot_layer.bulk_sync.planning import kick_off
from bot_layer.bulk_sync.polling import poll
from bot_layer.bulk_sync.release import release_all, release_done
from bot_layer.bulk_sync.rules import run_state as sync_state
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.session import Halted, Options, Progress, Session
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.task_store import LeaseLost, RunCancelled, SyncStore
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import BotError, TransientError

__all__ = ["Halted", "Options", "Progress", "Sync"]


@dataclass(frozen=True)
class Sync:
    """Syncs one source to one Medplum."""

    session: Session

    @property
    def settings(self) -> SyncSettings:
        """The practice's settings."""
        return self.session.settings

    @property
    def medplum(self) -> MedplumWriter:
        """The writer to Medplum."""
        return self.session.medplum

    @property
    def store(self) -> SyncStore:
        """The Task with the state and the lease."""
        return self.session.store

    @property
    def map(self) -> SyncMap:
        """The id map."""
        return self.session.map

    @property
    def stop(self) -> threading.Event:
        """Set to stop the run soon."""
        return self.session.stop

    def run(self, options: Options) -> SyncState:
        """Start a run or resume an interrupted one, until it ends, the time limit is reached, or it is stopped."""
        try:
            return self._run(options)
        except RunCancelled:
            self.session.log("PFSyncWorker", "The run was cancelled")
            return self.session.store.load()

    def _run(self, options: Options) -> SyncState:
        session = self.session
        session.log("PFSyncWorker", "Starting Practice Fusion sync...")
        state = session.store.acquire()
        if not session.map.lasting:
            session.keep_failures = partial(store_failures, session)
        try:
            state = begin(session, state, options)
            while state.run is not None and not state.run.over:
                session.check_time()
                state = _step(session, state.run)
        except Halted:
            # The next step may run on another machine, so failures are stored with the Task.
            with session.grace():
                kept = replace(session.store.state, failures=store_failures(session, session.store.state))
                saved = session.store.save(kept, release=True)
            if saved.run is not None and saved.run.job is None:
                session.spool.remove()
            return saved
        except LeaseLost:
            raise
        except BotError as fault:
            _fail(session, fault)
            raise
        finally:
            _let_go(session)
        return session.store.state

    def preview(self, options: Options) -> dict[str, int]:
        """How many resources of each type a run would read. Nothing is written; no lease is taken."""
        return previewing.preview(self.session, options)

    def cancel(self) -> SyncState:
        """Cancel the current run, here and at the source; the process that runs it stops at its next save or
        renewal."""
        session = self.session
        state = session.store.load()
        if state.run is None or state.run.over:
            state = session.store.acquire()  # a run that is just starting can't be cancelled yet
            return session.store.save(state, release=True)
        state = session.store.end(partial(_cancelled, now=session.clock()))
        if state.run is not None:
            use_scopes(session, state)
            release_all(session, state.run)
        return state


def _cancelled(state: SyncState, *, now: float) -> SyncState:
    run = state.run
    return state if run is None or run.over else replace(state, run=replace(run, phase="cancelled", ended=now))


def _step(session: Session, run: Run) -> SyncState:
    job = run.job
    if job is None:
        return finish(session, run)
    if any(each.done and each.status_url for each in run.jobs):
        return release_done(session, run)
    if job.level == "search":
        return load_searched(session, run, job)
    if not job.status_url:
        return kick_off(session, run, job)
    if is_on_disk(session, run, job):
        return load_spooled(session, run, job)
    if session.manifest is None:
        return poll(session, run, job)
    return load_files(session, run, job, session.manifest)


def _fail(session: Session, fault: BotError) -> None:
    run = session.store.state.run
    if run is None or run.over:
        # The run did not even start: monitoring must not keep showing the result of the previous run.
        before = run or Run("", 0.0)
        run = Run(uuid.uuid4().hex, session.clock(), "failed", edits=before.edits, not_exported=before.not_exported)
    # After a transient error, the run is resumed later; after a permanent one, it is over and the time stamps stay.
    over = run.over or not isinstance(fault, TransientError)
    problem = f"{fault.code}: {fault.message}"
    phase: sync_state.Phase = "failed" if over else run.phase
    session.log("PFSyncWorker", f"Sync failed: {problem}")
    try:
        session.save(replace(run, problem=problem, phase=phase, ended=session.clock() if over else 0.0))
    except RunCancelled:
        raise
    except BotError:
        session.log("PFSyncWorker", "Medplum did not take the news of it")
    else:
        if over:
            release_all(session, run)
            session.spool.remove()


def _let_go(session: Session) -> None:
    if session.store.state.owner == session.store.owner:
        # Without a persistent map, only the failures already stored with the Task survive this process.
        store = session.store
        try:
            with session.grace():
                store.save(store.state if session.map.lasting else store.written, release=True)
        except BotError:
            session.log("PFSyncWorker", "The lease could not be given back; it runs out by itself")
