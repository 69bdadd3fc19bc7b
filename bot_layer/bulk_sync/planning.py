"""Which exports a run requests, at which level, and their kick-off."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.bulk_sync.polling import KICKOFFS
from bot_layer.bulk_sync.rules import kickoff
from bot_layer.bulk_sync.rules.kickoff import Refused, Started, narrower
from bot_layer.bulk_sync.rules.plan import member_digests, plan_jobs
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.bulk_sync.rules.source_identity import in_order
from bot_layer.bulk_sync.rules.time_stamps import kickoff_moment
from bot_layer.bulk_sync.searching import left_out
from bot_layer.bulk_sync.session import Options, Session
from bot_layer.bulk_sync.source.records import GroupMembers
from bot_layer.errors import InputError, PermanentError


def planned(session: Session, run: Run, state: SyncState, types: tuple[str, ...], options: Options) -> Run:
    """The run with its jobs, and with the members of each readable Group."""
    level = _levels(session)[0]
    if options.job:
        return replace(run, jobs=(_foreign_job(session, types, options.job),), narrow=True)
    jobs: tuple[Job, ...] = ()
    members: dict[str, str] = {}
    unread: list[str] = []
    notes: tuple[str, ...] = ()
    grouped = level in ("group", "search")
    tree = session.source.records.group_tree(session.settings.group_ids) if grouped else {}
    for group in tree or ("",):
        there = tree.get(group)
        found = there.patients if there is not None else None
        if there is not None and there.groups and not there.patients:
            continue  # its patients are those of the Groups inside it
        if found is not None:
            members[group] = member_digests(found)
            notes += () if found else ("a Group has no patients: check PF_GROUP_ID, and who is in the Group",)
        elif level == "search":
            raise PermanentError(
                "The Group can't be read, so that its patients are not known; nobody else's are taken instead.",
                service="Practice Fusion",
                path="Group/{id}",
                code="group-unreadable",
            )
        elif group:
            unread.append(group)
        if options.patients:
            # A requested Group is never widened to other patients.
            only = tuple(each for each in options.patients if found is None or each in found)
            jobs += (_job_of(level, group, types, only, options.since),) if only else ()
            continue
        jobs += plan_jobs(
            level,
            group,
            types,
            state,
            members=found,
            full=run.full,
            now=session.clock(),
            since=options.since,
            by_search=lambda kind: not left_out(kind),
        )
    if options.patients and not jobs:
        raise InputError(
            "None of these patients is in the Groups of PF_GROUP_ID.",
            code="patient-not-in-group",
            expression=["Parameters.parameter.where(name='patient')"],
        )
    some = bool(options.patients) or (bool(options.types) and bool(set(session.settings.types) - set(options.types)))
    narrow = some or (bool(options.since) and not run.full)
    return replace(run, jobs=jobs, members=members, unread=tuple(unread), narrow=narrow).noted(*notes)


def _job_of(level: str, group: str, types: tuple[str, ...], only: tuple[str, ...], since: str) -> Job:
    """A job for all data of the patients whom the caller named, and no others."""
    patients = only if level == "search" else ()
    return Job(level, types, group, since, patients=patients, only=only, newcomers=True)


def _foreign_job(session: Session, types: tuple[str, ...], status_url: str) -> Job:
    """A job for an export that was started elsewhere. Its parameters are unknown, so no time stamp moves."""
    now = session.clock()
    return Job("patient", types, status_url=status_url, kickoffs=KICKOFFS, started=now, newcomers=True)


def kick_off(session: Session, run: Run, job: Job) -> SyncState:
    """The state with the export started at the source, or with what to try instead."""
    asked_at = session.clock()
    answer = ask_for_export(session, job)
    if isinstance(answer, Refused):
        return session.save(after_refusal(session, run, job, answer))
    if job.refused_since and not job.since:
        note = f"the source refuses _since for {', '.join(job.types)}: everything is exported"
        run = run.noted(note)
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


def ask_for_export(session: Session, job: Job, elements: tuple[str, ...] = ()) -> Started | Refused:
    """The source's answer to the kick-off of this job."""
    return session.source.exports.kickoff(job, elements)


def after_refusal(session: Session, run: Run, job: Job, refused: Refused) -> Run:
    """The run with what to try instead of a refused export: parts of it, the other jobs first, or the next level.

    A type that the source refuses on its own is excluded and reported; it never blocks the others. PermanentError if
    nothing is left to try.
    """
    parts = narrower(job, refused)
    if parts:
        return run.with_jobs(parts)
    family = [each for each in run.jobs if each is not job and _alike(each, job)]
    if any(each.kickoffs or each.done for each in family) and refused.unsupported:
        return _left_out(session, run, job, refused)
    if family and not job.split and not job.last and refused.unsupported:
        waiting = replace(job, last=True)
        return replace(run.with_jobs(()), jobs=(*run.with_jobs(()).jobs, waiting))
    # Nothing was accepted, not even a single type, so the source refuses the level.
    parts_of = [each for each in family if each.split and each.newcomers == job.newcomers]
    types = tuple(kind for each in (job, *parts_of) for kind in each.types)
    whole = replace(job, types=in_order(types), since=job.since or job.refused_since, refused_since="", split=False)
    others = tuple(each for each in run.jobs if each is not job and each not in parts_of)
    at = sum(each.done for each in others)
    return next_level(session, replace(run, jobs=(*others[:at], whole, *others[at:])), whole, refused)


def _left_out(session: Session, run: Run, job: Job, refused: Refused) -> Run:
    note = f"not exported by the source: {', '.join(job.types)} ({refused.reason})"
    session.log("PFBulkExport", note)
    return replace(run.with_jobs(()), refused_types=(*run.refused_types, *job.types)).noted(note)


def _alike(one: Job, other: Job) -> bool:
    return (one.level, one.group) == (other.level, other.group)


def export_instead(session: Session, run: Run, job: Job) -> Run:
    """The run with a full export instead of the search for a Group's new patients, which the source does not allow."""
    note = "the source allows no search by patient: the Group's newcomers come with a full export"
    session.log("PFBulkExport", note)
    whole = replace(job, level="group", since="", patients=(), files=(), transaction_time="", place="", counted=False)
    return run.with_job(whole).noted(note)


def next_level(session: Session, run: Run, job: Job, refused: Refused) -> Run:
    """The run with the job at the next level; PermanentError if there is none, or the refusal has another cause."""
    levels = _levels(session) if not job.only else (*_levels(session)[:1], "search")
    place = levels.index(job.level) if job.level in levels else len(levels)
    if not refused.unsupported or place + 1 >= len(levels):
        raise PermanentError(
            f"The source refused the export at {job.level} level: {refused.reason}. Set PF_EXPORT_LEVEL, or check "
            "the Group and the app's rights.",
            service="Practice Fusion",
            status=refused.status,
            path=kickoff.export_path(job.level, "{id}"),
            code="export-refused",
        )
    level = levels[place + 1]
    note = f"{job.level} level: {refused.reason}; taking {level} level"
    session.log("PFBulkExport", note)
    if level == "search":
        there = GroupMembers(job.only) if job.only else session.source.records.group(job.group)
        if there is None:
            raise PermanentError(
                "The Group can't be exported nor read.", service="Practice Fusion", code="group-unreadable"
            )
        job = replace(job, patients=there.patients)
    return run.with_job(replace(job, level=level)).noted(note)


def _levels(session: Session) -> tuple[str, ...]:
    """The levels to try in turn. A requested Group is never widened to all patients."""
    if session.settings.level != "auto":
        return (session.settings.level,)
    return ("group", "search") if session.settings.group_ids else ("patient", "system")
