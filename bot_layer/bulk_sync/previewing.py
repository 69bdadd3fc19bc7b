"""Previews what a run would read, without writing to Medplum."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from bot_layer.bulk_sync.beginning import granted
from bot_layer.bulk_sync.kick_off import after_refusal
from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.planning import planned
from bot_layer.bulk_sync.polling import with_all_pages
from bot_layer.bulk_sync.rules.bulk_export import Failed, Wait
from bot_layer.bulk_sync.rules.kickoff import Refused
from bot_layer.bulk_sync.rules.ndjson import split_lines
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.searching import searched_resources
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.errors import TransientError


def preview(session: Session, options: Options) -> dict[str, int]:
    """How many resources of each type a run would read. Nothing is written to Medplum; no lease is taken.

    If the files of an export are to be kept, all of them are downloaded.
    """
    state = session.store.load()
    types, state = granted(session, state, options)
    run = Run(id="preview", started=session.clock(), full=options.full)
    run = planned(session, run, state, types, options)
    numbers = Counter[str]()
    try:
        while (job := run.job) is not None:
            if job.level == "search":
                for patient in job.patients:
                    for resource in searched_resources(session.source, patient, job.types, job.since):
                        session.check_time()
                        numbers[resource["resourceType"]] += 1
            else:
                answer = session.source.exports.kickoff(job, options.elements)
                if isinstance(answer, Refused):
                    run = after_refusal(session, run, job, answer)
                    continue
                numbers.update(_counted(session, answer.status_url))
            run = run.with_job(replace(job, done=True))
    except Halted as halt:
        raise TransientError(
            "A preview waits for a whole export, and was stopped before its end: raise PF_STEP_SECONDS and the bot's "
            "timeout, or use medplum-bots pf-sync --preview.",
            service=SERVICE,
            code="preview-stopped",
        ) from halt
    return numbers


def _counted(session: Session, status_url: str) -> Counter[str]:
    """The number of resources of each type in an export, which is deleted at the source."""
    numbers = Counter[str]()
    try:
        polls = 1
        while isinstance(answer := session.source.exports.status(status_url, attempt=polls), Wait):
            polls += 1
            session.wait(answer.seconds)
        if isinstance(answer, Failed):
            raise TransientError(f"The export failed: {answer.reason}.", service=SERVICE)
        for file in with_all_pages(session, answer.manifest).files:
            count = file.count
            if count is None or session.source.keeper is not None:
                requires = answer.manifest.requires_access_token
                count = sum(1 for _ in split_lines(session.source.files.chunks(file, requires_token=requires)))
            if file.kind == "output":
                numbers.update({file.type: count})
    finally:
        session.source.exports.cancel(status_url)
    return numbers
