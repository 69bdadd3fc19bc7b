"""Edits that were left alone and listed: carried from run to run, and given up to the source when somebody says so."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from bot_layer.bulk_sync.progress import with_loaded
from bot_layer.bulk_sync.rules.local_edits import EditList, LocalEdit
from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.source_identity import brought_as, source_id_of
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.upsert_worker import Loaded
from bot_layer.bulk_sync.worker_pool import loading
from bot_layer.errors import AuthError, PermanentError
from bot_layer.fhir.json import Json

_MANY: Final = 100


def carried_edits(session: Session, state: SyncState) -> EditList:
    """What a new run begins with: the edits that an earlier one listed."""
    if state.run is None or session.settings.local_edits != "report":
        return EditList()
    return state.run.edits.carried()


def overwrite(session: Session, state: SyncState) -> SyncState:
    """The state with a run in which the source won over every edit that is listed, once."""
    edits = state.run.edits if state.run is not None else EditList()
    run = Run(id=uuid.uuid4().hex, started=session.clock(), phase="finish", full=True, edits=edits)
    listed = _by_type(edits)
    loaded = Loaded()
    with loading(session, run, policy="source") as files:
        for kind, some in listed.items():
            for start in range(0, len(some), _MANY):
                handful = {each.reference: each.id for each in some[start : start + _MANY]}
                query = f"_id={','.join(handful.values())}&_count={_MANY}"
                there = {f"{kind}/{each['id']}": each for each in session.medplum.requests.search(kind, query)}
                loaded = loaded.plus(files.loader.load(list(_from_source(session, kind, there.values()))))
                # What was deleted meanwhile is no edit any more.
                loaded = loaded.plus(Loaded(settled=frozenset(handful.keys() - there.keys())))
    run = with_loaded(run, loaded)
    if run.edits.listed:
        note = f"{len(run.edits.listed)} of the edits that were listed stay: the source does not give those resources"
        run = replace(run, notes=(note,))
    return session.save(run, state)


def _by_type(edits: EditList) -> dict[str, list[LocalEdit]]:
    by_type: dict[str, list[LocalEdit]] = {}
    for each in edits.listed:
        by_type.setdefault(each.type, []).append(each)
    return by_type


def _from_source(session: Session, stored_type: str, stored: Iterable[Json]) -> Iterator[Resource]:
    """What the source has for these resources of Medplum, read one by one."""
    kind = brought_as(stored_type)
    for there in stored:
        source_id = source_id_of(there, kind)
        if source_id is None:
            continue
        try:
            found = session.source.records.read(kind, source_id)
        except (PermanentError, AuthError):
            continue
        if found is not None and (found.get("resourceType"), found.get("id")) == (kind, source_id):
            yield resource_of(found)
