"""The place in each file, and what came of its lines, written into the run."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.bulk_sync.files import Step
from bot_layer.bulk_sync.rules.run_state import BAD_LINES, FileState, Job, Run, add_counts
from bot_layer.bulk_sync.session import Session, job_of
from bot_layer.bulk_sync.upsert_worker import Loaded


def with_loaded(run: Run, loaded: Loaded) -> Run:
    """The run with what was loaded now counted in."""
    return replace(
        run,
        counts=add_counts(run.counts, loaded.counts),
        overwritten=run.overwritten + loaded.overwritten,
        kept=run.kept + loaded.kept,
        edits=run.edits.after(loaded.edits, loaded.settled),
    )


def after_step(session: Session, state: FileState, step: Step, *, keep_place: bool = True) -> FileState:
    """The file's place after this step, with the step's counts and bad lines kept in the run."""
    with session.lock:
        run = session.run
        loaded = step.loaded
        bad = (*step.bad, *loaded.bad)
        named = tuple(f"{state.type} file {state.turn + 1} line {each.number}: {each.reason}" for each in bad)
        run = replace(with_loaded(run, loaded), bad_lines=(run.bad_lines + named)[:BAD_LINES])
        if keep_place:
            state = replace(state, lines=max(state.lines, step.lines))
            run = run.with_job(_with_file(job_of(run), state))
        session.keep(run)
    for kind, row in loaded.counts.items():
        session.progress("file", kind, row.get("seen", 0), state.count)
    return state


def file_done(session: Session, state: FileState, *, done: bool) -> FileState:
    """The file's place, kept as done or as to be read again."""
    with session.lock:
        run = session.run
        state = replace(state, done=done)
        session.keep(run.with_job(_with_file(job_of(run), state)))
        row = session.run.counts.get(state.type, {})
    if done:
        numbers = ", ".join(f"{row.get(name, 0)} {name}" for name in ("created", "updated", "failed"))
        session.log("PFSyncWorker", f"{state.type}: {numbers}")
    return state


def place_of(session: Session, state: FileState) -> FileState:
    """The place of the same file, as the run has it now."""
    return next(each for each in session.job.files if _key(each) == _key(state))


def _with_file(job: Job, state: FileState) -> Job:
    return replace(job, files=tuple(state if _key(each) == _key(state) else each for each in job.files))


def _key(state: FileState) -> tuple[str, str, int]:
    return state.kind, state.type, state.turn
