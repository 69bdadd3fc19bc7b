"""Records the progress and the results in the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from bot_layer.bulk_sync.rules.run_state import BAD_LINES, FileState, Job, Run, add_counts
from bot_layer.bulk_sync.session import Session, job_of
from bot_layer.bulk_sync.upsert_worker import Loaded, counted


def with_loaded(run: Run, loaded: Loaded) -> Run:
    """The run with the newly loaded resources added to its counts."""
    return replace(
        run,
        counts=add_counts(run.counts, loaded.counts),
        overwritten=run.overwritten + loaded.overwritten,
        kept=run.kept + loaded.kept,
        repaired=run.repaired + loaded.rewritten,
        uncopied=dict(Counter(run.uncopied) + Counter(loaded.uncopied)),
        edits=run.edits.after(loaded.edits, loaded.settled),
    )


def with_bad_lines(run: Run, lines: Iterable[tuple[str, str]]) -> Run:
    """The run with these bad lines, as pairs of type and text: all are counted as failed, some are listed."""
    found = list(lines)
    counts = add_counts(run.counts, counted((kind, "failed") for kind, _ in found))
    return replace(run, counts=counts, bad_lines=(*run.bad_lines, *(text for _, text in found))[:BAD_LINES])


def with_file(job: Job, state: FileState) -> Job:
    """The job with one of its files replaced."""
    files = (state if each.place == state.place else each for each in job.files)
    return replace(job, files=tuple(files))


def file_done(session: Session, state: FileState) -> None:
    """Record that a file was processed."""
    with session.lock:
        run = session.run
        session.keep(run.with_job(with_file(job_of(run), replace(state, done=True))))


def show_counts(session: Session, loaded: Loaded, expected: int | None = None) -> None:
    """Report the counts to the progress display."""
    for kind, row in loaded.counts.items():
        session.progress("file", kind, row.get("seen", 0), expected)
