"""What a run would read, without a trace of it in Medplum."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.core.bulk_export import Failed, Refused, Wait
from bot_layer.core.ndjson import split_lines
from bot_layer.core.sync_state import Run
from bot_layer.errors import TransientError
from bot_layer.sync.beginning import granted
from bot_layer.sync.planning import ask_for_export, next_level, planned
from bot_layer.sync.polling import whole
from bot_layer.sync.session import Options, Session


def preview(session: Session, options: Options) -> dict[str, int]:
    """How many resources of each type a run would read. Nothing is written; no lease is taken."""
    state = session.store.load()
    types, state = granted(session, state, options)
    run = Run(id="preview", started=session.clock(), full=options.full)
    run = planned(session, run, state, types, options)
    numbers: dict[str, int] = {}
    for job in run.jobs:
        if job.level == "search":
            continue
        answer = ask_for_export(session, job)
        if isinstance(answer, Refused):
            next_level(session, run, replace(job, level="search"), answer)
        else:
            _count(session, answer.status_url, numbers)
    return numbers


def _count(session: Session, status_url: str, numbers: dict[str, int]) -> None:
    try:
        polls = 1
        while isinstance(answer := session.source.exports.status(status_url, attempt=polls), Wait):
            polls += 1
            session.wait(answer.seconds)
        if isinstance(answer, Failed):
            raise TransientError(f"The export failed: {answer.reason}.", service="Practice Fusion")
        for file in whole(session, answer.manifest).files:
            if file.kind == "output":
                count = file.count
                if count is None:
                    requires = answer.manifest.requires_access_token
                    count = sum(1 for _ in split_lines(session.source.files.chunks(file, requires_token=requires)))
                numbers[file.type] = numbers.get(file.type, 0) + count
    finally:
        session.source.exports.cancel(status_url)
