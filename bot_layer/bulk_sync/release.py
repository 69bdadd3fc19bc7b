"""Deletes exports at the source, only after the state records them as done, so that a kill loses no data."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.errors import BotError

_NOTE = "released"  # a note in the map: the run whose exports were deleted


def release_done(session: Session, run: Run) -> SyncState:
    """Delete the exports of completed jobs before the next one is requested; returns the state.

    Some sources accept no second export before the first was deleted.
    """
    session.save(run)
    for job in run.jobs:
        if job.done and job.status_url:
            session.source.exports.cancel(job.status_url)
    jobs = tuple(replace(job, status_url="") if job.done else job for job in run.jobs)
    return session.keep(replace(run, jobs=jobs))


def release_all(session: Session, run: Run) -> None:
    """Delete what a finished run has left at the source. The state is already saved."""
    urls = [job.status_url for job in run.jobs if job.status_url]
    if not urls or session.map.note(_NOTE) == run.id:
        return
    with suppress(BotError, Halted):
        for url in urls:
            session.source.exports.cancel(url)
        session.map.write_note(_NOTE, run.id)
