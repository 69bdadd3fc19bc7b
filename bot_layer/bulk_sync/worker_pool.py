"""The workers that load, and what works on the rest, open for as long as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bot_layer.bulk_sync.attachments import Attachments
from bot_layer.bulk_sync.files import FileLoader
from bot_layer.bulk_sync.finalizer import Ending
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.upsert_worker import Loader


@contextmanager
def loading(session: Session, run: Run) -> Iterator[FileLoader]:
    """A loader with its pool of workers, which is at rest again afterwards."""
    settings = session.settings
    attachments = (
        Attachments(session.source, session.medplum, settings.max_attachment_bytes) if settings.attachments else None
    )
    loader = Loader(
        session.medplum,
        session.map,
        settings.source,
        conditional=settings.upsert == "conditional",
        look_at_all=run.full,
        seeing=run.reconcile,
        attachments=attachments,
        policy="source" if run.overwrite else None,
        alone=session.alone,
    )
    with ThreadPoolExecutor(settings.workers, thread_name_prefix="pf-sync") as pool:
        yield FileLoader(loader, pool, settings.workers, halted=session.halted, keys=session.keys)


@contextmanager
def ending(session: Session) -> Iterator[Ending]:
    """What deletes, repairs and fetches the rest, with a loader of its own."""
    with loading(session, session.run) as files:
        yield Ending(
            session.source,
            session.medplum,
            session.map,
            files.loader,
            session.settings.source,
            halted=session.halted,
        )
