"""Previews what a run would read, without writing to Medplum."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.bulk_sync.beginning import granted
from bot_layer.bulk_sync.planning import after_refusal, ask_for_export, planned
from bot_layer.bulk_sync.polling import whole
from bot_layer.bulk_sync.rules.bulk_export import Failed, Wait
from bot_layer.bulk_sync.rules.kickoff import Refused
from bot_layer.bulk_sync.rules.ndjson import split_lines
from bot_layer.bulk_sync.rules.run_state import Job, Run
from bot_layer.bulk_sync.searching import searched_resources
from bot_layer.bulk_sync.session import Halted, Options, Session
from bot_layer.errors import TransientError


def preview(session: Session, options: Options) -> dict[str, int]:
    """How many resources of each type a run would read. Nothing is written to Medplum; no lease is taken.

    If the files of an export are to be kept, all of them are downloaded.
    """
    state = session.store.load()
    types, state = granted(session, state, options)
    run = Run(id="preview", started=session.clock(), full=options.full)
    run = planned(session, run, state, types, options)
    numbers: dict[str, int] = {}
    try:
        while (job := run.job) is not None:
            if job.level == "search":
                _count_searched(session, job, numbers)
            else:
                answer = ask_for_export(session, job, options.elements)
                if isinstance(answer, Refused):
                    run = after_refusal(session, run, job, answer)
                    continue
                _count(session, answer.status_url, numbers)
            run = run.with_job(replace(job, done=True))
    except Halted as halt:
        raise TransientError(
            "A preview waits for a whole export, and was stopped before its end: raise PF_STEP_SECONDS and the bot's "
            "timeout, or use medplum-bots pf-sync --preview.",
            service="Practice Fusion",
            code="preview-stopped",
        ) from halt
    return numbers


def _count_searched(session: Session, job: Job, numbers: dict[str, int]) -> None:
    for patient in job.patients:
        for resource in searched_resources(session.source, patient, job.types, job.since):
            session.check_time()
            kind = resource["resourceType"]
            numbers[kind] = numbers.get(kind, 0) + 1


def _count(session: Session, status_url: str, numbers: dict[str, int]) -> None:
    try:
        polls = 1
        while isinstance(answer := session.source.exports.status(status_url, attempt=polls), Wait):
            polls += 1
            session.wait(answer.seconds)
        if isinstance(answer, Failed):
            raise TransientError(f"The export failed: {answer.reason}.", service="Practice Fusion")
        for file in whole(session, answer.manifest).files:
            count = file.count
            if count is None or session.source.keeper is not None:
                requires = answer.manifest.requires_access_token
                count = sum(1 for _ in split_lines(session.source.files.chunks(file, requires_token=requires)))
            if file.kind == "output":
                numbers[file.type] = numbers.get(file.type, 0) + count
    finally:
        session.source.exports.cancel(status_url)
