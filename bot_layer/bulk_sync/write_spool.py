"""Writes the resources on disk to Medplum: first those that belong to no patient, then patient by patient."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import Final

import orjson

from bot_layer.bulk_sync.hydrate import hydrate
from bot_layer.bulk_sync.progress import Loaded, with_loaded
from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of
from bot_layer.bulk_sync.rules.plan import after_patients
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.source_identity import in_order, level_of
from bot_layer.bulk_sync.rules.write_order import group_of, waits
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.spool import Spooled
from bot_layer.bulk_sync.upsert_worker import UpsertWorker

_ENOUGH: Final = 50  # resources of patients: the next patient starts another unit, so that no worker is idle
_SHARED: Final = 100  # resources that belong to no patient
_MOST: Final = 1000  # of one patient
_MOST_BYTES: Final = 4_000_000


def write_spool(session: Session, run: Run) -> SyncState:
    """The state after the resources on disk were written to Medplum, with the job completed.

    Its export is deleted at the source once the state is saved.
    """
    write_resources(session, run)
    session.manifest = None
    run, job = session.current, session.job
    for kind, row in sorted(run.counts.items()):
        numbers = ", ".join(f"{row.get(name, 0)} {name}" for name in ("created", "updated", "failed"))
        session.log("PFSyncWorker", f"{kind}: {numbers}")
    run = run.with_job(replace(job, done=True, place=""))
    ended = after_patients(session.store.state, run, job.group)
    if [each.since for each in ended.jobs] != [each.since for each in run.jobs]:
        session.log("PFBulkExport", "A Group that can't be read has new patients: the other types are exported in full")
    return session.keep(ended)


def write_resources(session: Session, run: Run) -> None:
    """Write the resources on disk, starting at the saved position; all writes have ended on return."""
    worker, workers = UpsertWorker(session, run), session.settings.workers
    waiting: deque[tuple[Unit, Future[Loaded]]] = deque()

    def end_first() -> None:
        unit, future = waiting.popleft()
        loaded = future.result()
        session.change(lambda run: with_loaded(run, loaded).with_job(replace(session.job, place=unit.place)))
        session.show(loaded.counts)

    with ThreadPoolExecutor(workers, thread_name_prefix="pf-sync") as pool:
        worker.ids.prepare(session.spool.kinds())
        hydrate(session, worker)
        _drop_unchanged(session, worker, pool, full=run.full)
        _count_repeated(session)
        for kind, number in session.spool.numbers().items():
            session.log("PFSyncWorker", f"Processing {number} {kind} resources...")
        for unit in units(session.spool.read(after=session.job.place)):
            if session.halted():
                break
            while waiting and (unit.after_all or len(waiting) >= 2 * workers or waiting[0][1].done()):
                end_first()
            waiting.append((unit, pool.submit(worker.load, unit.resources)))
        while waiting:
            end_first()
    session.check_time()


def _drop_unchanged(session: Session, worker: UpsertWorker, pool: ThreadPoolExecutor, *, full: bool) -> None:
    """Compare with Medplum type by type: done patient by patient, each type of each patient would cost a search.

    Types of one level do not refer to each other, and are compared in parallel.
    """
    numbers = session.spool.numbers()
    several = sum(numbers.values()) > _ENOUGH
    compared = [kind for kind in in_order(numbers) if full or (several and worker.ids.is_open(kind))]
    for _, level in groupby(compared, level_of):
        begun = {kind: session.spool.compared(kind) for kind in level}
        pages = (page for kind, after in begun.items() for page in session.spool.pages(kind, after))
        while some := list(islice(pages, session.settings.workers)):
            found = pool.map(worker.comparison.same, map(resources_of, some))
            for page, (same, settled) in zip(some, found, strict=True):
                last = page[-1].key
                session.spool.drop(same, compared=last)
                session.progress("file", last.type, len(same), None)
                session.change(partial(with_loaded, loaded=Loaded(settled=settled)))
            session.check_time()  # at the end, so that even a short step makes progress
        for kind, after in begun.items():
            if not after:  # what an earlier step compared is looked up again when it is written
                worker.ids.compared(kind)


def _count_repeated(session: Session) -> None:
    """Count duplicates: one version is written, the others count as unchanged."""
    if not session.job.counted:
        repeated = {kind: number for kind, number in session.spool.repeated().items() if number}
        loaded = Loaded({kind: {"seen": number, "unchanged": number} for kind, number in repeated.items()})
        session.keep(with_loaded(session.current, loaded).with_job(replace(session.job, counted=True)))


# -- The units that one worker writes at a time


@dataclass(frozen=True)
class Unit:
    """A few complete patients, or a batch of resources without a patient.

    ``after_all``: written only after everything before it.
    """

    place: str  # of its last resource
    resources: list[Resource] = field(repr=False)
    after_all: bool = False


def units(spooled: Iterable[Spooled]) -> Iterator[Unit]:
    """The spool in units, in order. A patient is split only if the patient's resources do not fit in memory."""
    patients: list[Spooled] = []
    after_all = True  # the first patients come after the shared resources
    for group, members in groupby(spooled, lambda each: group_of(each.place)):
        if waits(group):
            if patients:
                yield _unit(patients, after_all)
            patients, after_all = [], True
            for number, part in enumerate(_parts(members, _SHARED)):
                yield _unit(part, number == 0)
            continue
        for number, part in enumerate(_parts(members, _MOST)):
            if patients and (number or len(patients) >= _ENOUGH):
                yield _unit(patients, after_all)
                patients, after_all = [], bool(number)  # the parts of one patient refer to each other
            patients += part
    if patients:
        yield _unit(patients, after_all)


def _parts(spooled: Iterable[Spooled], most: int) -> Iterator[list[Spooled]]:
    """Lists with at most ``most`` resources and a limited number of bytes."""
    part: list[Spooled] = []
    size = 0
    for each in spooled:
        if part and (len(part) >= most or size > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each.body)
    if part:
        yield part


def _unit(spooled: list[Spooled], after_all: bool) -> Unit:
    return Unit(spooled[-1].place, resources_of(spooled), after_all)


def resources_of(spooled: Iterable[Spooled]) -> list[Resource]:
    """The same resources, parsed."""
    return [resource_of(orjson.loads(each.body), raw=each.body) for each in spooled]
