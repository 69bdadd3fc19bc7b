"""The run to work on: a new one, an interrupted one, or a retry of what failed."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.failures import carried_edits, retry, stored_failures
from bot_layer.bulk_sync.kick_off import delete_exports
from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.planning import planned
from bot_layer.bulk_sync.repair import KNOWS_WAITING
from bot_layer.bulk_sync.rules.plan import filtered_by, still_missing
from bot_layer.bulk_sync.rules.run_state import NO_GROUP, Run, SyncState
from bot_layer.bulk_sync.rules.smart import Discovery
from bot_layer.bulk_sync.session import Session
from bot_layer.errors import ConfigError

_NEXT: Final = "next_cache_id"
SCOPES_SECONDS: Final = 6.5 * 86_400  # once a week, even if a run starts a little early


def begin(session: Session, state: SyncState, options: Options) -> SyncState:
    """The state with an unfinished run."""
    state = _same_history(session, _known_writers(session, state))
    if state.run is not None and not state.run.over:
        return _resumed(session, state, state.run, options)
    # A new history id, which the map adopts once the Task has it, so that neither is used with a backup of the other.
    state = replace(state, cache_id=uuid.uuid4().hex)
    session.map.write_note(_NEXT, state.cache_id)
    return retry(session, state) if options.retry_failed else _started(session, state, options)


def _known_writers(session: Session, state: SyncState) -> SyncState:
    """Record the writers of this sync, so that the bot and the command line do not take each other's writes for
    edits."""
    profile = session.medplum.server.profile
    if profile and profile not in state.writers:
        state = replace(state, writers=(*state.writers, profile))
    session.medplum.lookups.writers = frozenset(state.writers)
    return state


def _same_history(session: Session, state: SyncState) -> SyncState:
    """Empty the map if its history differs from that of the Task in Medplum: one may be from a backup."""
    if state.cache_id and state.cache_id in (session.map.note("cache_id"), session.map.note(_NEXT)):
        session.map.write_note("cache_id", state.cache_id)
        return state
    cache_id = uuid.uuid4().hex
    session.map.clear(cache_id)
    if not state.cache_id:
        session.map.write_note(KNOWS_WAITING, "yes")  # before the first sync, no reference waits
    session.map.record((), failures=stored_failures(session, state))
    return replace(state, cache_id=cache_id)


# -- Resuming a run


def _resumed(session: Session, state: SyncState, run: Run, options: Options) -> SyncState:
    """The state with the interrupted run, and a note if this call requested something else.

    ConfigError for a reconcile whose map, in which it recorded what the source still has, is lost.
    """
    session.log("PFSyncWorker", "Resuming the run that was interrupted")
    session.sole_writer = False  # it may be this process's own run, whose last request may still be in transit
    use_scopes(session, state)
    if run.reconcile and not (run.seen_in and session.map.note("cache_id") == run.seen_in):
        raise ConfigError(
            "This reconcile was resumed without the map in which it had recorded what the source still has, so that "
            "nothing was deleted. Set PF_STATE_DIR to a folder that every step of the bot finds again, or run it on "
            "the command line: medplum-bots pf-sync --reconcile.",
            code="reconcile-lost-its-map",
            missing=["PF_STATE_DIR"],
        )
    if left := ", ".join(not_asked_then(run, options)):
        note = f"this ended a run that was broken off; call again for: {left}"
        if note not in run.notes:
            session.log("PFSyncWorker", f"The interrupted run is finished first; call again for: {left}")
        run = run.noted(note)
    return session.store.save(replace(state, run=replace(run, problem="")))


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


# -- Starting a run


def _started(session: Session, state: SyncState, options: Options) -> SyncState:
    """The state with a new run."""
    before, state = state.run, filtered_by(state, session.settings.type_filters)
    last = f"{state.last_sync_time} (incremental)" if state.last_sync_time else "never (initial sync)"
    session.log("PFSyncWorker", f"Last sync time: {last}")
    types, state = granted(session, state, options)
    if before is not None:
        delete_exports(session, before)  # the process may have been killed between the commit and this call
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
        _require_all_groups(session, state)
        session.map.begin_seeing()
        run = replace(run, seen_in=state.cache_id)
    # The process that ran a cancelled run may still be writing.
    session.sole_writer = before is None or before.phase != "cancelled"
    session.store.state = replace(state, run=run)
    return session.store.state


def granted(session: Session, state: SyncState, options: Options) -> tuple[tuple[str, ...], SyncState]:
    """The types that the source grants, and the state that stores them."""
    types = options.types or session.settings.types
    # Further types are requested if referenced resources are read too.
    asked_for = (*types, *(("hydrate",) if session.settings.hydrate else ()))
    known = bool(state.scopes) and state.scopes_for == asked_for and not session.settings.scopes
    # A refused type may be granted by now, but negotiating in each run would cost more requests than the rest of the
    # run.
    is_due = options.full or options.reconcile or session.clock() - state.scopes_at > SCOPES_SECONDS
    if known and not (state.refused_types and is_due):
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


def _require_all_groups(session: Session, state: SyncState) -> None:
    """ConfigError unless a reconcile's export contains every Group that was ever synced."""
    if set(state.since) - ({*session.settings.group_ids, *state.groups} or {NO_GROUP}):
        raise ConfigError(
            "This source's other Groups were synced too: name all of them in PF_GROUP_ID for a reconcile, or their "
            "patients would look deleted.",
            code="reconcile-needs-all-groups",
            missing=["PF_GROUP_ID"],
        )
