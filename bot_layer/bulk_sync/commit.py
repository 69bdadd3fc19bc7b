"""The end of a run: repair references, delete what is gone at the source, then advance the time stamps."""

from __future__ import annotations

from dataclasses import replace

import orjson

from bot_layer.bulk_sync.failures import store_failures
from bot_layer.bulk_sync.finalizer import MANY, Finalizer
from bot_layer.bulk_sync.reconciling import check_map, is_whole, shown_types
from bot_layer.bulk_sync.release import release_all
from bot_layer.bulk_sync.rules.plan import next_members, next_stamps
from bot_layer.bulk_sync.rules.run_state import Run, SyncState, totals
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.worker_pool import finalizer


def finish(session: Session, run: Run) -> SyncState:
    """The state with the run done."""
    session.keep(replace(run, phase="finish"))
    rest = finalizer(session)
    types = {*session.settings.types, *(kind for each in session.store.state.since.values() for kind in each)}
    rest.learn_waiting(sorted(types))
    repaired = rest.repair()
    session.check_time()
    if run.reconcile:
        _reconcile(session, rest)
    run = session.run
    notes = tuple(
        f"references to {kind} stay logical: this login may not read that type in Medplum"
        for kind in sorted(session.medplum.lookups.unreadable)
    )
    run = run.noted(*notes)
    run = replace(run, repaired=run.repaired + repaired, waiting=session.map.waiting())
    return _commit(session, session.store.state, run)


def _reconcile(session: Session, rest: Finalizer) -> None:
    """Delete what the source no longer has, a hundred at a time; an interrupted run resumes after the deleted ones."""
    run, settings = session.run, session.settings
    check_map(session, run)
    missing = rest.missing_at_source(shown_types(run), most=settings.max_delete_share, how=settings.deletion)
    for start in range(0, len(missing), MANY):
        # A resource that a filter excludes is not deleted at the source.
        whole = is_whole(run) and not settings.type_filters
        gone = rest.gone(missing[start : start + MANY], whole=whole)
        number = rest.delete(gone, settings.deletion)
        session.keep(replace(session.run, deleted=session.run.deleted + number))
        session.check_time()


def _with_findings(run: Run) -> Run:
    """The run, with a note if a full export had no patients: otherwise a wrong Group looks like a healthy sync."""
    full = any("Patient" in job.types and not job.since and not job.newcomers for job in run.jobs)
    if not full or run.counts.get("Patient", {}).get("seen", 0):
        return run
    note = "no patient came from the source: check PF_GROUP_ID, and who is in the Group"
    return run.noted(note)


def _commit(session: Session, state: SyncState, run: Run) -> SyncState:
    """Advance the time stamps: every file was processed, and failures are stored."""
    failures = store_failures(session, state)
    # The positions in the export are no longer needed; its address is kept until the source has deleted it.
    jobs = tuple(replace(job, files=(), patients=()) for job in run.jobs)
    run = _with_findings(run)
    ended = replace(run, phase="partial" if run.incomplete else "done", ended=session.clock(), jobs=jobs, members={})
    new = replace(
        state,
        since=next_stamps(state, run),
        members=next_members(state, run),
        failures=failures,
        run=ended,
        # After a retry, or an export of some patients, the next export is due at the same time as before.
        last_success=session.clock() if any(not each.newcomers for each in run.jobs) else state.last_success,
    )
    saved = session.store.save(new, release=True)
    session.spool.remove()  # only now: a run killed before this is counted again from the spool
    release_all(session, ended)
    session.log("PFSyncWorker", f"Updated sync state: {saved.last_sync_time}")
    session.log("PFSyncWorker", "Sync complete!")
    session.log("PFSyncWorker", f"Stats: {orjson.dumps(totals(run.counts)).decode()}")
    return saved
