"""Loads one export into Medplum: download all of it to the disk, or search it patient by patient, then write it."""

from __future__ import annotations

from dataclasses import replace

from bot_layer.bulk_sync.download import apply_deleted, download_files, read_errors, store_on_disk
from bot_layer.bulk_sync.polling import after_failure
from bot_layer.bulk_sync.progress import with_bad_lines, with_loaded
from bot_layer.bulk_sync.rules.bulk_export import Failed, Manifest
from bot_layer.bulk_sync.rules.ndjson import resource_of, unusable
from bot_layer.bulk_sync.rules.plan import places_of
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.searching import left_out, searched_resources
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.bulk_sync.source.records import ReadRefused
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.bulk_sync.write_spool import write_resources, write_spool
from bot_layer.errors import PermanentError


def open_spool(session: Session, run: Run, job: Job) -> None:
    """Open the spool for this export; another export's content is removed."""
    number = sum(each.done for each in run.jobs)
    session.spool.use(f"{run.id} {number} {job.kickoffs}")


def is_on_disk(session: Session, run: Run, job: Job) -> bool:
    """True if every file of this export is on this machine's disk, so that the source is no longer needed."""
    if not job.files or not all(each.done for each in job.files):
        return False
    open_spool(session, run, job)
    outputs = {number for number, each in enumerate(job.files) if each.kind == "output"}
    return outputs <= session.spool.whole()


def load_files(session: Session, run: Run, job: Job, manifest: Manifest) -> SyncState:
    """The state after every file of the export was written to Medplum, or after the export was lost."""
    open_spool(session, run, job)
    places = places_of(manifest.files)
    files = [(number, each, places[each.place]) for number, each in enumerate(job.files)]
    left = [(state, file) for _, state, file in files if not state.done]
    refused: PermanentError | None = None
    try:
        try:
            # First what the source deleted: nothing new refers to it, and what was created again stays.
            for state, file in left:
                if state.kind == "deleted":
                    apply_deleted(session, state, file)
        except PermanentError as fault:
            refused = fault
        for state, file in left:
            if state.kind == "error":
                read_errors(session, state, file)
        download_files(session, UpsertWorker(session, run), [each for each in files if each[1].kind == "output"])
    except LinkExpired:
        session.manifest = None
        session.spool.remove()
        return after_failure(session, session.current, session.job, Failed(410, "links expired", lost=True))
    if refused is None:
        return write_spool(session, run)
    # The rest is still loaded; then the refusal ends the run.
    write_resources(session, run)
    raise refused


def load_searched(session: Session, run: Run, job: Job) -> SyncState:
    """The fallback without export: search each patient's resources."""
    if not job.transaction_time:
        job = replace(job, transaction_time=session.source.records.server_time())
        unsought = [f"{kind} is not searched by patient: it needs an export" for kind in job.types if left_out(kind)]
        run = run.with_job(job).noted(*unsought)
        session.save(run)
    open_spool(session, run, job)
    worker = UpsertWorker(session, run)
    for turn, patient in enumerate(job.patients):
        try:
            if turn not in session.spool.whole():
                _search(session, worker, turn, patient)
        except (PermanentError, ReadRefused) as fault:
            of_source = isinstance(fault, ReadRefused) or fault.service == SERVICE
            if job.only or not (job.newcomers and of_source and session.settings.level in ("auto", "group")):
                raise
            note = "the source allows no search by patient: the Group's newcomers come with a full export"
            session.log("PFBulkExport", note)
            session.spool.remove()
            export = Job("group", job.types, job.group, newcomers=True)
            return session.save(session.current.with_job(export).noted(note))
    return write_spool(session, run)


def _search(session: Session, worker: UpsertWorker, turn: int, patient: str) -> None:
    """Store one patient's resources on disk, and count the patient once, even if the spool is lost."""
    session.check_time()
    job = session.job
    found = searched_resources(session.source, patient, job.types, job.since)
    resources = [resource_of(each, number) for number, each in enumerate(found, 1)]
    asked = [(each, unusable(each)) for each in resources if each.type in job.types]
    session.spool.begin(turn)
    loaded = store_on_disk(session, worker, turn, [each for each, reason in asked if not reason])
    session.spool.end(turn)
    if any(each.turn == turn for each in job.files):
        return
    bad = [(each.type, f"{each.type} found by search: {reason}") for each, reason in asked if reason]
    files = (*job.files, FileState("output", "Patient", turn, done=True))
    session.keep(with_bad_lines(with_loaded(session.current, loaded), bad).with_job(replace(job, files=files)))
    session.progress("patients", "", turn + 1, len(job.patients))
