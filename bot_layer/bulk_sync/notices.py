"""The files of an export without resources to import: deletions, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bot_layer.bulk_sync.polling import KICKOFFS, fresh_place
from bot_layer.bulk_sync.progress import file_done, with_bad_lines
from bot_layer.bulk_sync.rules import bulk_export
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import UNREADABLE_DELETIONS, NotExported, merged, read_outcomes, unreadable
from bot_layer.bulk_sync.rules.ndjson import Resource, read_resources, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.bulk_sync.state.task_store import LeaseLost
from bot_layer.bulk_sync.worker_pool import finalizer
from bot_layer.errors import BotError, PermanentError
from bot_layer.fhir.json import Json


def apply_deleted(session: Session, state: FileState, file: ExportFile) -> None:
    """Delete or mark in Medplum what the source deleted. A deletion that cannot be read is reported."""
    # The sync imported nothing of other types, and Medplum may not support them.
    imported = {*session.job.types, *session.settings.types, *POINTED_TO}
    found: list[tuple[Key | None, ...]] = []
    missing: tuple[NotExported, ...] = ()
    try:
        found = [bulk_export.deletions(item, session.settings.source) for item in _items(session, state, file)]
    except LinkExpired:
        if session.job.kickoffs < KICKOFFS:
            raise
        missing = unreadable(UNREADABLE_DELETIONS)
    except PermanentError as fault:
        if fault.service != SERVICE:
            raise
        missing = unreadable(UNREADABLE_DELETIONS)
    keys = dict.fromkeys(each for one in found for each in one if each is not None and each.type in imported)
    number = finalizer(session).delete(list(keys), session.settings.deletion)
    bad = [
        f"deletions file {state.turn + 1} line {line}: no deletion" for line, one in enumerate(found, 1) if None in one
    ]
    run = with_bad_lines(session.run, (("Bundle", each) for each in bad))
    session.keep(replace(run.lacking(missing), deleted=run.deleted + number))
    file_done(session, state)


def read_errors(session: Session, state: FileState, file: ExportFile) -> None:
    """Record in the run what the source reports as not exported; an error file never stops the run."""
    outcomes: list[Json] = []
    whole = True
    try:
        for item in _items(session, state, file, bundles=True):
            whole = whole and item is not None
            outcomes += [item] if item is not None else []
    except LeaseLost:
        raise
    except BotError as fault:
        session.log("PFBulkExport", f"An error file cannot be read ({fault.code})")
        whole = False
    whole = whole and len(outcomes) >= (file.count or 0)
    missing, notes = read_outcomes(outcomes, session.job.types, named=file.type)
    found = missing if whole else merged(missing, unreadable())
    for each in found:
        session.log("PFBulkExport", f"Not exported by the source: {each.type}: {each.count} x {each.reason}")
    session.keep(session.run.lacking(found).noted(*notes))
    file_done(session, state)


def _items(session: Session, state: FileState, file: ExportFile, *, bundles: bool = False) -> Iterator[Json | None]:
    """The resources of a file, None for a line that is not a resource; an expired link is renewed once."""
    seen = 0
    for attempt in (1, 2):
        try:
            for number, item in enumerate(_read(session, file, bundles=bundles)):
                if number >= seen:
                    seen += 1
                    yield item
        except LinkExpired:
            if attempt == 2:
                raise
            file = fresh_place(session, state)
        else:
            return


def _read(session: Session, file: ExportFile, *, bundles: bool) -> Iterator[Json | None]:
    requires = session.job.requires_token
    lines = split_lines(session.source.files.chunks(file, requires_token=requires))
    for item in read_resources(lines, bundles=bundles):
        yield item.value if isinstance(item, Resource) else None
