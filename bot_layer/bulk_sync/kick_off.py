"""Starts an export at the source, decides what to try after a refusal, and deletes the export when it is done."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.planning import levels
from bot_layer.bulk_sync.rules.kickoff import Refused, export_path, narrower
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.source_identity import in_order
from bot_layer.bulk_sync.rules.time_stamps import kickoff_moment
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.bulk_sync.source.records import GroupMembers
from bot_layer.errors import BotError, PermanentError

_DELETED: Final = "released"  # a note in the map: the run whose exports were deleted


def kick_off(session: Session, run: Run, job: Job) -> SyncState:
    """The state with the export started at the source, or with what to try instead."""
    asked_at = session.clock()
    answer = session.source.exports.kickoff(job)
    if isinstance(answer, Refused):
        return session.save(after_refusal(session, run, job, answer))
    if job.refused_since and not job.since:
        run = run.noted(f"the source refuses _since for {', '.join(job.types)}: everything is exported")
    job = replace(
        job,
        status_url=answer.status_url,
        kickoffs=job.kickoffs + 1,
        polls=0,
        started=session.clock(),
        kicked_off=kickoff_moment(answer.date, now=asked_at),
    )
    # Saved before the first poll, so that the next step finds the job instead of starting a second one.
    return session.save(run.with_job(job))


def after_refusal(session: Session, run: Run, job: Job, refused: Refused) -> Run:
    """The run with what to try instead of a refused export: parts of it, the other jobs first, or the next level.

    A type that the source refuses on its own is excluded and reported; it never blocks the others. PermanentError if
    nothing is left to try.
    """
    if parts := narrower(job, refused):
        return run.with_jobs(parts)
    others = [each for each in run.jobs if each is not job]
    family = [each for each in others if (each.level, each.group) == (job.level, job.group)]
    if any(each.kickoffs or each.done for each in family) and refused.unsupported:
        note = f"not exported by the source: {', '.join(job.types)} ({refused.reason})"
        session.log("PFBulkExport", note)
        return replace(run, jobs=tuple(others), refused_types=(*run.refused_types, *job.types)).noted(note)
    if family and not job.split and not job.last and refused.unsupported:
        return replace(run, jobs=(*others, replace(job, last=True)))
    # Nothing was accepted, not even a single type, so the source refuses the level: it is tried no more in parts.
    parts_of = [each for each in family if each.split and each.newcomers == job.newcomers]
    types = in_order(kind for each in (job, *parts_of) for kind in each.types)
    whole = replace(job, types=types, since=job.since or job.refused_since, refused_since="", split=False)
    jobs = tuple(whole if each is job else each for each in run.jobs if each not in parts_of)
    return _at_next_level(session, replace(run, jobs=jobs), whole, refused)


def _at_next_level(session: Session, run: Run, job: Job, refused: Refused) -> Run:
    """The run with the job at the next level; PermanentError if there is none, or the refusal has another cause."""
    known = (*levels(session)[:1], "search") if job.only else levels(session)
    following = known[known.index(job.level) + 1 :] if job.level in known else ()
    if not refused.unsupported or not following:
        raise PermanentError(
            f"The source refused the export at {job.level} level: {refused.reason}. Set PF_EXPORT_LEVEL, or check "
            "the Group and the app's rights.",
            service=SERVICE,
            status=refused.status,
            path=export_path(job.level, "{id}"),
            code="export-refused",
        )
    level = following[0]
    note = f"{job.level} level: {refused.reason}; taking {level} level"
    session.log("PFBulkExport", note)
    if level == "search":
        members = GroupMembers(job.only) if job.only else session.source.records.group(job.group)
        if members is None:
            raise PermanentError("The Group can't be exported nor read.", service=SERVICE, code="group-unreadable")
        job = replace(job, patients=members.patients)
    return run.with_job(replace(job, level=level)).noted(note)


# -- Deleting exports at the source, only after the state records them as done, so that a kill loses no data


def delete_done(session: Session, run: Run) -> SyncState:
    """Delete the exports of completed jobs before the next one is requested; returns the state.

    Some sources accept no second export before the first was deleted.
    """
    session.save(run)
    for job in run.jobs:
        if job.done and job.status_url:
            session.source.exports.cancel(job.status_url)
    return session.keep(replace(run, jobs=tuple(replace(job, status_url="") if job.done else job for job in run.jobs)))


def delete_exports(session: Session, run: Run) -> None:
    """Delete what a finished run has left at the source. The state is already saved."""
    urls = [job.status_url for job in run.jobs if job.status_url]
    if not urls or session.map.note(_DELETED) == run.id:
        return
    with suppress(BotError, Halted):
        for url in urls:
            session.source.exports.cancel(url)
        session.map.write_note(_DELETED, run.id)
