"""The run to work on: a new one, an interrupted one, or a retry of what failed."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.failures import carried_edits, retry, stored_failures
from bot_layer.bulk_sync.finalizer import KNOWS_WAITING
from bot_layer.bulk_sync.planning import planned
from bot_layer.bulk_sync.reconciling import begin_seeing, check_map
from bot_layer.bulk_sync.release import release_all
from bot_layer.bulk_sync.rules.plan import filtered_by, still_missing
from bot_layer.bulk_sync.rules.run_state import NO_GROUP, Run, SyncState
from bot_layer.bulk_sync.rules.smart import Discovery
from bot_layer.bulk_sync.session import Options, Session

_NEXT: Final = "next_cache_id"
SCOPES_SECONDS: Final = 6.5 * 86_400  # once a week, even if a run starts a little early


def begin(session: Session, state: SyncState, options: Options) -> SyncState:
    """The state with an unfinished run."""
    state = _known_writers(session, _same_past(session, state))
    if state.run is not None and not state.run.over:
        session.log("PFSyncWorker", "Resuming the run that was broken off")
        session.alone = False  # it may be this process's own run, whose last request may still be in transit
        use_scopes(session, state)
        check_map(session, state.run)
        run = _told_what_is_left_out(session, state.run, options)
        return session.store.save(replace(state, run=replace(run, problem="")))
    state = _next_past(session, state)
    if options.retry_failed:
        return retry(session, state)
    before, state = state.run, filtered_by(state, session.settings.type_filters)
    said = f"{state.last_sync_time} (incremental)" if state.last_sync_time else "never (initial sync)"
    session.log("PFSyncWorker", f"Last sync time: {said}")
    types, state = granted(session, state, options)
    if before is not None:
        release_all(session, before)  # the process may have been killed between the commit and this call
    run = Run(
        id=uuid.uuid4().hex,
        started=session.clock(),
        full=options.full or options.reconcile or options.overwrite_reported,
        overwrite=options.overwrite_reported,
        reconcile=options.reconcile,
        refused_types=state.refused_types,
        edits=carried_edits(session, state),
    )
    run = planned(session, run, state, types, options)
    run = run.lacking(still_missing(state, run))
    groups = dict.fromkeys(job.group or NO_GROUP for job in run.jobs)
    state = replace(state, groups=tuple(groups), types=session.settings.types)
    if run.full:
        session.map.ask_anew("")  # what the source did not have may exist by now
    if options.reconcile:
        run = replace(run, seen_in=begin_seeing(session, state))
    # The process that ran a cancelled run may still be writing.
    session.alone = before is None or before.phase != "cancelled"
    session.store.state = replace(state, run=run)
    return session.store.state


def _told_what_is_left_out(session: Session, run: Run, options: Options) -> Run:
    """The resumed run, with a note if this call requested something else, so that no user takes it for done."""
    left = not_asked_then(run, options)
    note = f"this ended a run that was broken off; call again for: {', '.join(left)}" if left else ""
    if not note or note in run.notes:
        return run
    session.log("PFSyncWorker", f"A run that was broken off goes on first; call again for: {', '.join(left)}")
    return replace(run, notes=(*run.notes, note))


def not_asked_then(run: Run, options: Options) -> tuple[str, ...]:
    """The names of the requested options that the current run does not have."""
    types = {kind for job in run.jobs for kind in job.types} | set(run.refused_types)
    new = {
        "full": options.full and not run.full,
        "types": bool(options.types) and set(options.types) != types,
        "since": bool(options.since) and all(job.since != options.since for job in run.jobs),
        "patient": bool(options.patients) and all(set(job.only) != set(options.patients) for job in run.jobs),
        "job": bool(options.job) and all(job.status_url != options.job for job in run.jobs),
        "reconcile": options.reconcile and not run.reconcile,
        "retry-failed": options.retry_failed and bool(run.jobs),
        "overwrite-reported": options.overwrite_reported and not run.overwrite,
    }
    return tuple(name for name, asked in new.items() if asked)


def granted(session: Session, state: SyncState, options: Options) -> tuple[tuple[str, ...], SyncState]:
    """The types that the source grants, and the state that stores them."""
    types = options.types or session.settings.types
    # Further types are requested if referenced resources are read too.
    asked_for = (*types, *(("hydrate",) if session.settings.hydrate else ()))
    known = bool(state.scopes) and state.scopes_for == asked_for and not session.settings.scopes
    # A refused type may be granted by now, but negotiating in each run would cost more requests than the rest of the
    # run.
    anew = options.full or options.reconcile or session.clock() - state.scopes_at > SCOPES_SECONDS
    if known and not (state.refused_types and anew):
        use_scopes(session, state)
        return tuple(each for each in types if each not in state.refused_types), state
    accepted = session.source.login.negotiate(types)
    discovery = session.source.login.discover()
    refused = tuple(each for each in types if each not in accepted)
    if refused:
        session.log("PFSmartClient", f"The source does not grant: {', '.join(refused)}")
    changed = replace(
        state,
        # Scopes from a setting are not stored, so that a change of the setting takes effect.
        scopes=() if session.settings.scopes else session.source.login.granted,
        scopes_for=asked_for,
        scopes_at=session.clock(),
        refused_types=refused,
        token_endpoint=discovery.token_endpoint,
        auth_methods=discovery.auth_methods,
    )
    return accepted, changed


def use_scopes(session: Session, state: SyncState) -> None:
    """Log in to the source as before, without repeating discovery and scope negotiation."""
    session.source.login.granted = session.settings.scopes or state.scopes
    if state.token_endpoint and session.source.login.discovery is None:
        session.source.login.discovery = Discovery(state.token_endpoint, state.auth_methods)


def _known_writers(session: Session, state: SyncState) -> SyncState:
    """Record the writers of this sync, so that the bot and the command line do not take each other's writes for
    edits."""
    profile = session.medplum.server.profile
    if profile and profile not in state.writers:
        state = replace(state, writers=(*state.writers, profile))
    session.medplum.lookups.writers = frozenset(state.writers)
    return state


def _same_past(session: Session, state: SyncState) -> SyncState:
    """Empty the file on disk if its history differs from that of the Task in Medplum: one may be from a backup."""
    if state.cache_id and state.cache_id in (session.map.note("cache_id"), session.map.note(_NEXT)):
        session.map.write_note("cache_id", state.cache_id)
        return state
    cache_id = uuid.uuid4().hex
    session.map.clear(cache_id)
    if not state.cache_id:
        session.map.write_note(KNOWS_WAITING, "yes")  # before the first sync, no reference waits
    session.map.record((), failures=stored_failures(session, state))
    return replace(state, cache_id=cache_id)


def _next_past(session: Session, state: SyncState) -> SyncState:
    """The state with a new history id, which the map adopts once the Task has it, so that neither is used with a backup
    of the other."""
    cache_id = uuid.uuid4().hex
    session.map.write_note(_NEXT, cache_id)
    return replace(state, cache_id=cache_id)
