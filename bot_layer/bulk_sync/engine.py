"""One sync, step by step: kick off, poll, load, finish. It may stop at any point and resume on any machine."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial

from bot_layer.bulk_sync import previewing
from bot_layer.bulk_sync.beginning import begin, use_scopes
from bot_layer.bulk_sync.failures import store_failures
from bot_layer.bulk_sync.finish import finish
from bot_layer.bulk_sync.kick_off import delete_done, delete_exports, kick_off
from bot_layer.bulk_sync.load_files import is_on_disk, load_files, load_searched
from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.polling import poll
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.bulk_sync.state.task_store import LeaseLost, RunCancelled
from bot_layer.bulk_sync.write_spool import write_spool
from bot_layer.errors import BotError, TransientError


class Sync(Session):
    """Syncs one source to one Medplum."""

    def run(self, options: Options) -> SyncState:
        """Start a run or resume an interrupted one, until it ends, the time limit is reached, or it is stopped."""
        try:
            return self._run(options)
        except RunCancelled:
            self.log("PFSyncWorker", "The run was cancelled")
            return self.store.load()

    def _run(self, options: Options) -> SyncState:
        self.log("PFSyncWorker", "Starting Practice Fusion sync...")
        state = self.store.acquire()
        if not self.map.lasting:
            self.keep_failures = partial(store_failures, self)
        try:
            state = begin(self, state, options)
            while state.run is not None and not state.run.over:
                self.check_time()
                state = _step(self, state.run)
        except Halted:
            # The next step may run on another machine, so failures are stored with the Task.
            with self.grace():
                kept = replace(self.store.state, failures=store_failures(self, self.store.state))
                saved = self.store.save(kept, release=True)
            if saved.run is not None and saved.run.job is None:
                self.spool.remove()
            return saved
        except LeaseLost:
            raise
        except BotError as fault:
            _fail(self, fault)
            raise
        finally:
            _release_lease(self)
        return self.store.state

    def preview(self, options: Options) -> dict[str, int]:
        """How many resources of each type a run would read. Nothing is written; no lease is taken."""
        return previewing.preview(self, options)

    def cancel(self) -> SyncState:
        """Cancel the current run, here and at the source; the process that runs it stops at its next save or
        renewal."""
        state = self.store.load()
        if state.run is None or state.run.over:
            state = self.store.acquire()  # a run that is just starting can't be cancelled yet
            return self.store.save(state, release=True)
        state = self.store.end(partial(_cancelled, now=self.clock()))
        if state.run is not None:
            use_scopes(self, state)
            delete_exports(self, state.run)
        return state


def _cancelled(state: SyncState, *, now: float) -> SyncState:
    run = state.run
    return state if run is None or run.over else replace(state, run=replace(run, phase="cancelled", ended=now))


def _step(session: Session, run: Run) -> SyncState:
    """The state after the next step of the run. A run has a job for each export, and each is loaded completely."""
    job = run.job
    if job is None:
        return finish(session, run)
    if any(each.done and each.status_url for each in run.jobs):
        return delete_done(session, run)
    if job.level == "search":
        return load_searched(session, run, job)
    if not job.status_url:
        return kick_off(session, run, job)
    if is_on_disk(session, run, job):
        return write_spool(session, run)
    if session.manifest is None:
        return poll(session, run, job)
    return load_files(session, run, job, session.manifest)


def _fail(session: Session, fault: BotError) -> None:
    run = session.store.state.run
    if run is None or run.over:
        # The run did not even start: monitoring must not keep showing the result of the previous run.
        before = run or Run("", 0.0)
        run = Run(uuid.uuid4().hex, session.clock(), "failed", edits=before.edits, not_exported=before.not_exported)
    problem = f"{fault.code}: {fault.message}"
    session.log("PFSyncWorker", f"Sync failed: {problem}")
    # After a transient error, the run is resumed later; after a permanent one, it is over and the time stamps stay.
    run = replace(run, problem=problem)
    if run.over or not isinstance(fault, TransientError):
        run = replace(run, phase="failed", ended=session.clock())
    try:
        session.save(run)
    except RunCancelled:
        raise
    except BotError:
        session.log("PFSyncWorker", "The failure could not be stored in Medplum")
    else:
        if run.over:
            delete_exports(session, run)
            session.spool.remove()


def _release_lease(session: Session) -> None:
    store = session.store
    if store.state.owner == store.owner:
        try:
            # Without a persistent map, only the failures already stored with the Task survive this process.
            with session.grace():
                store.save(store.state if session.map.lasting else store.written, release=True)
        except BotError:
            session.log("PFSyncWorker", "The lease could not be released; it expires by itself")
