"""The workers that write to Medplum, open as long as they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bot_layer.bulk_sync.attachments import Attachments
from bot_layer.bulk_sync.finalizer import Finalizer
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.spooled_units import Unit
from bot_layer.bulk_sync.upsert_worker import Loaded, UpsertWorker


def upsert_worker(session: Session, run: Run) -> UpsertWorker:
    """The worker that writes for this run."""
    settings = session.settings
    carried = Attachments(session.source, session.medplum, settings.max_attachment_bytes)
    return UpsertWorker(
        session.medplum,
        session.map,
        settings.source,
        look_at_all=run.full,
        attachments=carried if settings.attachments else None,
        policy="source" if run.overwrite else None,
        alone=session.alone,
    )


def finalizer(session: Session) -> Finalizer:
    """The finalizer that deletes and repairs."""
    return Finalizer(session.source, session.medplum, session.map, session.settings.source, halted=session.halted)


@dataclass(frozen=True)
class WorkerPool:
    """Writes units with several threads; ``halted`` is checked before each."""

    worker: UpsertWorker
    pool: ThreadPoolExecutor
    size: int
    halted: Callable[[], bool] = lambda: False

    def load(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Loaded]]:
        """The result of each unit, in order; several are written in parallel."""
        waiting: deque[tuple[Unit, Future[Loaded]]] = deque()
        try:
            for unit in units:
                if self.halted():
                    break
                while waiting and (unit.after_all or len(waiting) >= 2 * self.size or waiting[0][1].done()):
                    yield _ended(waiting.popleft())
                waiting.append((unit, self.pool.submit(self.worker.load, unit.resources)))
            while waiting:
                yield _ended(waiting.popleft())
        finally:
            # After a failure, wait for the others: no write may be in progress when the lease is released.
            for _, future in waiting:
                future.exception()


def _ended(waiting: tuple[Unit, Future[Loaded]]) -> tuple[Unit, Loaded]:
    unit, future = waiting
    return unit, future.result()


@contextmanager
def worker_pool(session: Session, run: Run) -> Iterator[WorkerPool]:
    """A pool whose writes have all ended on exit."""
    size = session.settings.workers
    with ThreadPoolExecutor(size, thread_name_prefix="pf-sync") as pool:
        yield WorkerPool(upsert_worker(session, run), pool, size, halted=session.halted)
