"""Loads one export into Medplum: download, read missing references, write patient by patient."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, islice

from bot_layer.bulk_sync.download import download_files, keep
from bot_layer.bulk_sync.hydrate import hydrate
from bot_layer.bulk_sync.notices import apply_deleted, read_errors
from bot_layer.bulk_sync.planning import export_instead
from bot_layer.bulk_sync.polling import after_failure
from bot_layer.bulk_sync.progress import show_counts, with_bad_lines, with_loaded
from bot_layer.bulk_sync.rules.bulk_export import Failed, Manifest
from bot_layer.bulk_sync.rules.ndjson import resource_of, unusable
from bot_layer.bulk_sync.rules.plan import Places, after_patients, places_of
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.source_identity import in_order, level_of
from bot_layer.bulk_sync.searching import left_out, searched_resources
from bot_layer.bulk_sync.session import Session, job_of
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.bulk_sync.source.records import ReadRefused
from bot_layer.bulk_sync.spooled_units import ENOUGH, resources_of, units
from bot_layer.bulk_sync.upsert_worker import Loaded, UpsertWorker
from bot_layer.bulk_sync.worker_pool import WorkerPool, upsert_worker, worker_pool
from bot_layer.errors import PermanentError


def load_files(session: Session, run: Run, job: Job, manifest: Manifest) -> SyncState:
    """The state after every file of the export was written to Medplum, or after the export was lost."""
    places = places_of(manifest.files)
    open_spool(session, run, job)
    left = [each for each in job.files if not each.done]
    try:
        refused = _delete_first(session, [each for each in left if each.kind == "deleted"], places)
        for each in left:
            if each.kind == "error":
                read_errors(session, each, places[each.place])
        worker = upsert_worker(session, run)
        download_files(session, worker, [each for each in job.files if each.kind == "output"], places)
    except LinkExpired:
        session.manifest = None
        session.spool.remove()
        return after_failure(session, session.run, session.job, Failed(410, "links expired", lost=True))
    if refused is None:
        return load_spooled(session, run, session.job)
    # The rest is still loaded; then the refusal ends the run.
    _load(session, run)
    raise refused


def is_on_disk(session: Session, run: Run, job: Job) -> bool:
    """True if every file of this export is on this machine's disk, so that the source is no longer needed."""
    if not job.files or not all(each.done for each in job.files):
        return False
    open_spool(session, run, job)
    outputs = {number for number, each in enumerate(job.files) if each.kind == "output"}
    return outputs <= session.spool.whole()


def load_spooled(session: Session, run: Run, job: Job) -> SyncState:
    """The state after the resources on disk were written to Medplum."""
    open_spool(session, run, job)
    _load(session, run)
    session.manifest = None
    return _job_done(session)


def load_searched(session: Session, run: Run, job: Job) -> SyncState:
    """The fallback without export: search each patient's resources."""
    if not job.transaction_time:
        job = replace(job, transaction_time=session.source.records.server_time())
        unsought = [f"{kind} is not searched by patient: it needs an export" for kind in job.types if left_out(kind)]
        run = run.with_job(job).noted(*unsought)
        session.save(run)
    open_spool(session, run, job)
    worker = upsert_worker(session, run)
    for turn, patient in enumerate(job.patients):
        try:
            _search(session, worker, turn, patient)
        except (PermanentError, ReadRefused) as fault:
            of_source = isinstance(fault, ReadRefused) or fault.service == SERVICE
            if job.only or not (job.newcomers and of_source and session.settings.level in ("auto", "group")):
                raise
            session.spool.remove()
            return session.save(export_instead(session, session.run, session.job))
    return load_spooled(session, run, session.job)


def open_spool(session: Session, run: Run, job: Job) -> None:
    """Open the spool for this export; another export's content is removed."""
    number = sum(each.done for each in run.jobs)
    session.spool.use(f"{run.id} {number} {job.kickoffs}")


def _job_done(session: Session) -> SyncState:
    """The state with the job completed. Its export is deleted at the source once the state is saved."""
    done = session.run
    for kind, row in sorted(done.counts.items()):
        numbers = ", ".join(f"{row.get(name, 0)} {name}" for name in ("created", "updated", "failed"))
        session.log("PFSyncWorker", f"{kind}: {numbers}")
    group = job_of(done).group
    ended = after_patients(session.store.state, done.with_job(replace(job_of(done), done=True, place="")), group)
    if [each.since for each in ended.jobs] != [each.since for each in done.jobs]:
        session.log("PFBulkExport", "Patients have joined a Group that can't be read: the other types come in full")
    return session.keep(ended)


def _search(session: Session, worker: UpsertWorker, turn: int, patient: str) -> None:
    if turn in session.spool.whole():
        return
    session.check_time()
    job = session.job
    found = searched_resources(session.source, patient, job.types, job.since)
    resources = [resource_of(each, number) for number, each in enumerate(found, 1)]
    asked = [(each, unusable(each)) for each in resources if each.type in job.types]
    session.spool.begin(turn)
    loaded = keep(session, worker, turn, [each for each, reason in asked if not reason])
    session.spool.end(turn)
    if any(each.turn == turn for each in job.files):
        return  # the spool was lost: the job is already counted
    run = with_loaded(session.run, loaded)
    run = with_bad_lines(
        run, ((each.type, f"{each.type} found by search: {reason}") for each, reason in asked if reason)
    )
    now = job_of(run)
    session.keep(run.with_job(replace(now, files=(*now.files, FileState("output", "Patient", turn, done=True)))))
    session.progress("patients", "", turn + 1, len(job.patients))


def _delete_first(session: Session, states: list[FileState], places: Places) -> PermanentError | None:
    """Delete what the source deleted before the rest is written: nothing new refers to it, and what was created
    again stays.

    Where Medplum refuses a deletion, the rest is loaded all the same, and the refusal ends the run.
    """
    try:
        for each in states:
            apply_deleted(session, each, places[each.place])
    except PermanentError as fault:
        return fault
    return None


def _load(session: Session, run: Run) -> None:
    """Write the spool to Medplum, starting at the saved position."""
    with worker_pool(session, run) as pool:
        pool.worker.prepare(session.spool.kinds())
        hydrate(session, pool.worker)
        _drop_unchanged(session, pool, full=run.full)
        _count_repeated(session)
        for kind, number in session.spool.numbers().items():
            session.log("PFSyncWorker", f"Processing {number} {kind} resources...")
        spooled = session.spool.read(after=session.job.place)
        for unit, loaded in pool.load(units(spooled)):
            with session.lock:
                now = with_loaded(session.run, loaded)
                session.keep(now.with_job(replace(job_of(now), place=unit.place)))
            show_counts(session, loaded)
    session.check_time()


def _drop_unchanged(session: Session, pool: WorkerPool, *, full: bool) -> None:
    """Compare with Medplum type by type: done patient by patient, each type of each patient would cost a search.

    Types of one level do not refer to each other, and are compared in parallel.
    """
    worker = pool.worker
    numbers = session.spool.numbers()
    several = sum(numbers.values()) > ENOUGH
    compared = [kind for kind in in_order(numbers) if full or (several and worker.is_open(kind))]
    for _, level in groupby(compared, level_of):
        begun = {kind: session.spool.compared(kind) for kind in level}
        pages = (page for kind, after in begun.items() for page in session.spool.pages(kind, after))
        while some := list(islice(pages, pool.size)):
            found = pool.pool.map(worker.same, map(resources_of, some))
            for page, (same, settled) in zip(some, found, strict=True):
                last = page[-1].key
                session.spool.drop(same, compared=last)
                session.progress("file", last.type, len(same), None)
                with session.lock:
                    run = session.run
                    session.keep(replace(run, edits=run.edits.after((), settled)))
            session.check_time()  # at the end, so that even a short step makes progress
        for kind, after in begun.items():
            if not after:  # what an earlier step compared is looked up again when it is written
                worker.compared(kind)


def _count_repeated(session: Session) -> None:
    """Count duplicates: one version is written, the others count as unchanged."""
    with session.lock:
        run = session.run
        if job_of(run).counted:
            return
        rows = {
            kind: {"seen": number, "unchanged": number} for kind, number in session.spool.repeated().items() if number
        }
        run = with_loaded(run, Loaded(rows))
        session.keep(run.with_job(replace(job_of(run), counted=True)))
