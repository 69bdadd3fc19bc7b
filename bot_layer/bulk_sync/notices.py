"""What an export says beside its resources: what was deleted at the source, and what the source could not export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bot_layer.bulk_sync.polling import fresh_place
from bot_layer.bulk_sync.progress import file_done
from bot_layer.bulk_sync.rules import bulk_export
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.ndjson import Resource, read_resources, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.bulk_sync.worker_pool import ending
from bot_layer.errors import TransientError


def apply_deleted(session: Session, state: FileState, file: ExportFile) -> None:
    """Delete or mark in Medplum what the source deleted."""
    # Of other types the sync brought nothing, and Medplum may not even know them.
    brought = {*session.job.types, *session.settings.types, *POINTED_TO}
    keys: list[Key] = []
    for item in _items(session, state, file):
        keys += [Key(*each) for each in bulk_export.deleted_keys(item) if each[0] in brought]
    with ending(session) as rest:
        number = rest.delete(list(dict.fromkeys(keys)), session.settings.deletion)
    run = session.run
    session.keep(replace(run, deleted=run.deleted + number))
    file_done(session, state, done=True)


def read_errors(session: Session, state: FileState, file: ExportFile) -> None:
    """The source's own OperationOutcomes: counted by code, as their words may name a person.

    One that the source names and does not give is told too; everything else was handled, and is not exported anew.
    """
    try:
        codes = _codes(session, state, file)
    except (LinkExpired, TransientError) as fault:
        if fault.code != LinkExpired.default_code:
            raise
        codes = {"error file that can't be read": 1}
    run = session.run
    notes = tuple(f"the source reports {number} x {name}" for name, number in sorted(codes.items()))
    grave = any(name.startswith(("error", "fatal")) for name in codes)
    session.keep(replace(run, notes=(*run.notes, *notes), source_errors=run.source_errors or grave))
    file_done(session, state, done=True)


def _codes(session: Session, state: FileState, file: ExportFile) -> dict[str, int]:
    codes: dict[str, int] = {}
    for item in _items(session, state, file):
        for name in bulk_export.named_issues(item):
            codes[name] = codes.get(name, 0) + 1
    return codes


def _items(session: Session, state: FileState, file: ExportFile) -> Iterator[dict[str, Any]]:
    """What stands in a file; where its link expired, behind a fresh one, once."""
    seen = 0
    for attempt in (1, 2):
        try:
            for number, item in enumerate(_read(session, file)):
                if number >= seen:
                    seen += 1
                    yield item
        except LinkExpired:
            if attempt == 2:
                raise
            file = fresh_place(session, state)
        else:
            return


def _read(session: Session, file: ExportFile) -> Iterator[dict[str, Any]]:
    requires = session.job.requires_token
    for item in read_resources(split_lines(session.source.files.chunks(file, requires_token=requires)), bundles=False):
        if isinstance(item, Resource):
            yield item.value
