"""The conditions for a reconcile to delete what a full export did not contain."""

from __future__ import annotations

from bot_layer.bulk_sync.rules import run_state as sync_state
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.searching import searched
from bot_layer.bulk_sync.session import Session
from bot_layer.errors import ConfigError


def begin_seeing(session: Session, state: SyncState) -> str:
    """Start recording in the map what the export contains; returns the map's id. ConfigError if the export can't be
    full."""
    mine = {*session.settings.group_ids, *state.groups} or {sync_state.NO_GROUP}
    if set(state.since) - mine:
        raise ConfigError(
            "This source's other Groups were synced too: name all of them in PF_GROUP_ID for a reconcile, or their "
            "patients would look deleted.",
            code="reconcile-needs-all-groups",
            missing=["PF_GROUP_ID"],
        )
    session.map.begin_seeing()
    return state.cache_id


def check_map(session: Session, run: Run) -> None:
    """ConfigError unless this map is the one in which this run recorded what it saw: otherwise everything looks
    deleted."""
    if not run.reconcile or (run.seen_in and session.map.note("cache_id") == run.seen_in):
        return
    raise ConfigError(
        "This reconcile went on without the map in which it had noted what the source still has, so that nothing was "
        "deleted. Set PF_STATE_DIR to a folder that every step of the bot finds again, or run it on the command line: "
        "medplum-bots pf-sync --reconcile.",
        code="reconcile-lost-its-map",
        missing=["PF_STATE_DIR"],
    )


def shown_types(run: Run) -> tuple[str, ...]:
    """The types that the source exported completely."""
    shown = (kind for job in run.jobs for kind in job.types if job.level != "search" or searched(kind))
    return tuple(dict.fromkeys(shown))


def is_whole(run: Run) -> bool:
    """False if the export had unreadable lines or errors: the missing resources may be among them."""
    return not run.bad_lines and not run.not_exported
