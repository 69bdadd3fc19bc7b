"""The files of one export into Medplum: level by level, several at once, each until it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from bot_layer.bulk_sync.files import FileLoader
from bot_layer.bulk_sync.notices import apply_deleted, read_errors
from bot_layer.bulk_sync.polling import Places, after_failure, fresh_place, places_of
from bot_layer.bulk_sync.progress import after_step, file_done, place_of
from bot_layer.bulk_sync.rules.bulk_export import ExportFile, Failed, Manifest
from bot_layer.bulk_sync.rules.ndjson import Line, split_lines
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState, totals
from bot_layer.bulk_sync.rules.source_identity import level_of
from bot_layer.bulk_sync.searching import left_out, search_lines
from bot_layer.bulk_sync.session import Halted, Session, job_of
from bot_layer.bulk_sync.source.files import FileChanged, LinkExpired
from bot_layer.bulk_sync.worker_pool import loading
from bot_layer.errors import PermanentError

READERS: Final = 8


def load_files(session: Session, run: Run, job: Job, manifest: Manifest) -> SyncState:
    """The state with every file of the export in Medplum, or with the export lost."""
    places = places_of(manifest)
    left = [each for each in job.files if not each.done]
    try:
        refused = _delete_first(session, [each for each in left if each.kind == "deleted"], places)
        _load_levels(session, run, [each for each in left if each.kind == "output"], places)
        for each in left:
            if each.kind == "error":
                read_errors(session, each, _place(places, each))
    except LinkExpired:
        session.manifest = None
        return after_failure(session, session.run, session.job, Failed(410, "links expired", lost=True))
    session.check_time()
    if refused is not None:
        raise refused
    done = session.run
    # Some sources take no second export before the first was deleted.
    session.source.exports.cancel(job.status_url)
    session.manifest = None
    return session.keep(done.with_job(replace(job_of(done), done=True)))


def load_searched(session: Session, run: Run, job: Job) -> SyncState:
    """The stated fallback: every patient's resources by search, patient by patient."""
    if not job.transaction_time:
        job = replace(job, transaction_time=session.source.records.server_time())
        unsought = [f"{kind} is not searched by patient: it needs an export" for kind in job.types if left_out(kind)]
        run = replace(run.with_job(job), notes=tuple(dict.fromkeys((*run.notes, *unsought))))
        session.save(run)
    done = {each.turn for each in job.files}
    with loading(session, run) as files:
        for turn, patient in enumerate(job.patients):
            if turn in done:
                continue
            lines = search_lines(session.source, patient, job.types, job.since)
            state = FileState("output", "Patient", turn)
            for step in files.load(lines, type_="Patient"):
                after_step(session, state, step, keep_place=False)
            session.check_time()
            current = session.run
            now = job_of(current)
            session.keep(current.with_job(replace(now, files=(*now.files, replace(state, done=True)))))
            session.progress("patients", "", turn + 1, len(job.patients))
    done_run = session.run
    return session.save(done_run.with_job(replace(job_of(done_run), done=True, files=())))


def _delete_first(session: Session, states: list[FileState], places: Places) -> PermanentError | None:
    """What is gone goes before the rest comes: nothing new is made to point to it, and what was made anew stays.

    Where Medplum refuses a deletion, the rest is loaded all the same, and the refusal ends the run.
    """
    try:
        for each in states:
            apply_deleted(session, each, _place(places, each))
    except PermanentError as fault:
        return fault
    return None


def _load_levels(session: Session, run: Run, states: list[FileState], places: Places) -> None:
    """Level by level, so that what others point to is there before them."""
    levels = [list(some) for _, some in groupby(sorted(states, key=_level), key=_level)]
    with loading(session, run) as files:
        files.loader.prepare(each.type for each in states)
        for some in levels:
            _load_level(session, files, some, places)


def _level(state: FileState) -> int:
    return level_of(state.type)


def _place(places: Places, state: FileState) -> ExportFile:
    return places[state.kind, state.type, state.turn]


def _load_level(session: Session, files: FileLoader, states: list[FileState], places: Places) -> None:
    """Several files at once; the first failure is raised when all of them have come to rest."""
    faults: list[BaseException] = []
    with ThreadPoolExecutor(min(READERS, len(states)), thread_name_prefix="pf-read") as readers:
        tasks = [readers.submit(load_file, session, files, each, _place(places, each)) for each in states]
    for task in tasks:
        fault = task.exception()
        if fault is not None:
            faults.append(fault)
    # Somebody else's turn, or a lost link, says more than that the time is over.
    for fault in sorted(faults, key=lambda each: isinstance(each, Halted)):
        raise fault


def load_file(session: Session, files: FileLoader, state: FileState, file: ExportFile) -> None:
    """Have a whole file in Medplum, from its place on."""
    session.log("PFBulkExport", f"Downloading NDJSON file: {state.type} {state.turn + 1}")
    many = "" if state.count is None else f"{state.count} "
    session.log("PFSyncWorker", f"Processing {many}{state.type} resources...")
    for attempt in (1, 2):
        try:
            handled = _read_file(session, files, state, file)
        except LinkExpired:
            if attempt == 2:
                raise
            state, file = place_of(session, state), fresh_place(session, state)
            continue
        except FileChanged:
            # The lines of another version stand in other places: none of them counts as handled.
            state = file_done(session, replace(place_of(session, state), lines=0), done=False)
            if attempt == 2:
                raise
            continue
        if state.count is None or handled >= state.count or attempt == 2:
            break
        # Fewer resources than the manifest promised: something was cut off. To read it again does no harm.
        session.log("PFBulkExport", f"{state.type}: {handled} of {state.count} resources arrived; reading it again")
        state = file_done(session, replace(state, lines=0), done=False)
    if state.count is not None and handled < state.count:
        raise PermanentError(
            f"A file of {state.type} holds {handled} resources, but the manifest says {state.count}.",
            service="Practice Fusion",
            path="export file",
            code="file-incomplete",
        )
    file_done(session, place_of(session, state), done=True)


def _read_file(session: Session, files: FileLoader, state: FileState, file: ExportFile) -> int:
    """The number of resources and bad lines in the whole file."""
    requires = session.job.requires_token
    seen = 0
    before = state.lines
    counted = _Counted(split_lines(session.source.files.chunks(file, requires_token=requires)))
    for step in files.load(counted, type_=state.type, after=before):
        state = after_step(session, state, step)
        seen += totals(step.loaded.counts)["seen"]
    session.check_time()
    session.log("PFBulkExport", f"Parsed {max(seen, counted.lines)} resources from file")
    return max(seen, counted.lines)


@dataclass
class _Counted:
    """Counts the lines that pass."""

    inner: Iterator[Line]
    lines: int = 0

    def __iter__(self) -> Iterator[Line]:
        for line in self.inner:
            self.lines += 1
            yield line
