"""The end of a run: repair references, delete what the source no longer has, then advance the time stamps."""

from __future__ import annotations

from dataclasses import replace

import orjson

from bot_layer.bulk_sync.deletions import reconcile
from bot_layer.bulk_sync.failures import store_failures
from bot_layer.bulk_sync.kick_off import delete_exports
from bot_layer.bulk_sync.repair import learn_waiting, repair
from bot_layer.bulk_sync.rules.plan import next_members, next_stamps
from bot_layer.bulk_sync.rules.run_state import Run, SyncState, totals
from bot_layer.bulk_sync.session import Session


def finish(session: Session, run: Run) -> SyncState:
    """The state with the run done: every file was processed, and failures are stored."""
    state = session.keep(replace(run, phase="finish"))
    types = {*session.settings.types, *(kind for each in state.since.values() for kind in each)}
    learn_waiting(session, sorted(types))
    repaired = repair(session)
    session.check_time()
    if run.reconcile:
        reconcile(session, run)
    state, run = session.store.state, _with_findings(session, session.current)
    ended = replace(
        run,
        phase="partial" if run.incomplete else "done",
        ended=session.clock(),
        repaired=run.repaired + repaired,
        waiting=session.map.waiting(),
        # The positions in the export are no longer needed; its address is kept until the source has deleted it.
        jobs=tuple(replace(job, files=(), patients=()) for job in run.jobs),
        members={},
    )
    new = replace(
        state,
        since=next_stamps(state, run),
        members=next_members(state, run),
        failures=store_failures(session, state),
        run=ended,
        # After a retry, or an export of some patients, the next export is due at the same time as before.
        last_success=session.clock() if any(not each.newcomers for each in run.jobs) else state.last_success,
    )
    saved = session.store.save(new, release=True)
    session.spool.remove()  # only now: a run killed before this is counted again from the spool
    delete_exports(session, ended)
    session.log("PFSyncWorker", f"Updated sync state: {saved.last_sync_time}")
    session.log("PFSyncWorker", "Sync complete!")
    session.log("PFSyncWorker", f"Stats: {orjson.dumps(totals(run.counts)).decode()}")
    return saved


def _with_findings(session: Session, run: Run) -> Run:
    """The run with what Medplum did not let the sync read, and a note if a full export had no patients."""
    run = run.noted(
        *(
            f"references to {kind} stay logical: this login may not read that type in Medplum"
            for kind in sorted(session.medplum.lookups.unreadable)
        )
    )
    full = any("Patient" in job.types and not job.since and not job.newcomers for job in run.jobs)
    if not full or run.counts.get("Patient", {}).get("seen", 0):
        return run
    # Otherwise a wrong Group looks like a healthy sync.
    return run.noted("no patient came from the source: check PF_GROUP_ID, and who is in the Group")
