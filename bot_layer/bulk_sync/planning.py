"""Which exports a run requests: for each Group, in full for new types and patients, the rest since the last run."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.polling import KICKOFFS
from bot_layer.bulk_sync.rules.plan import member_digests, plan_jobs
from bot_layer.bulk_sync.rules.run_state import Job, Run, SyncState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.searching import left_out
from bot_layer.bulk_sync.session import Session
from bot_layer.errors import InputError, PermanentError


def levels(session: Session) -> tuple[str, ...]:
    """The levels to try in turn. A requested Group is never widened to all patients."""
    if session.settings.level != "auto":
        return (session.settings.level,)
    return ("group", "search") if session.settings.group_ids else ("patient", "system")


def planned(session: Session, run: Run, state: SyncState, types: tuple[str, ...], options: Options) -> Run:
    """The run with its jobs, and with the members of each readable Group."""
    if options.job:
        # The parameters of an export that was started elsewhere are unknown, so that no time stamp moves.
        now = session.clock()
        foreign = Job("patient", types, status_url=options.job, kickoffs=KICKOFFS, started=now, newcomers=True)
        return replace(run, jobs=(foreign,), narrow=True)
    level = levels(session)[0]
    tree = session.source.records.group_tree(session.settings.group_ids) if level in ("group", "search") else {}
    jobs: list[Job] = []
    for group in tree or ("",):
        members = tree.get(group)
        patients = members.patients if members is not None else None
        if members is not None and members.groups and not patients:
            continue  # its patients are those of the Groups inside it
        if patients is not None:
            run = replace(run, members={**run.members, group: member_digests(patients)})
            if not patients:
                run = run.noted("a Group has no patients: check PF_GROUP_ID, and who is in the Group")
        elif level == "search":
            raise PermanentError(
                "The Group can't be read, so that its patients are not known; nobody else's are taken instead.",
                service=SERVICE,
                path="Group/{id}",
                code="group-unreadable",
            )
        elif group:
            run = replace(run, unread=(*run.unread, group))
        if not options.patients:
            jobs += plan_jobs(
                level,
                group,
                types,
                state,
                members=patients,
                full=run.full,
                now=session.clock(),
                since=options.since,
                by_search=lambda kind: not left_out(kind),
            )
        elif only := tuple(each for each in options.patients if patients is None or each in patients):
            # All data of the patients whom the caller named, and of no others.
            searched = only if level == "search" else ()
            jobs.append(Job(level, types, group, options.since, patients=searched, only=only, newcomers=True))
    if options.patients and not jobs:
        raise InputError(
            "None of these patients is in the Groups of PF_GROUP_ID.",
            code="patient-not-in-group",
            expression=["Parameters.parameter.where(name='patient')"],
        )
    some = bool(options.patients) or (bool(options.types) and bool(set(session.settings.types) - set(options.types)))
    return replace(run, jobs=tuple(jobs), narrow=some or (bool(options.since) and not run.full))
