"""What Medplum refused: kept beside the Task, and tried again when asked."""

from __future__ import annotations

import uuid

import orjson

from bot_layer.clients.sync_map import Failure
from bot_layer.core.references import Key
from bot_layer.core.sync_state import Run, SyncState
from bot_layer.core.upsert import digest_of
from bot_layer.sync.hands import loading
from bot_layer.sync.overwriting import carried_edits
from bot_layer.sync.places import with_loaded
from bot_layer.sync.session import Session


def retry(session: Session, state: SyncState) -> SyncState:
    """The state with a run that has written what failed before, and only has to be finished."""
    edits = carried_edits(session, state)
    run = Run(id=uuid.uuid4().hex, started=session.clock(), phase="finish", full=True, edits=edits)
    with loading(session, run) as files:
        loaded = files.loader.retry(session.map.failures())
    return session.save(with_loaded(run, loaded), state)


def store_failures(session: Session, state: SyncState) -> str:
    """What Medplum refused, as a Binary beside the Task, so that it outlives this machine's disk."""
    failures = session.map.failures()
    if not failures:
        session.medplum.delete([("Binary", state.failures.removeprefix("Binary/"))] if state.failures else [])
        return ""
    lines = b"\n".join(
        orjson.dumps(
            {
                "type": each.key.type,
                "id": each.key.id,
                "status": each.status,
                "reason": each.reason,
                "resource": orjson.loads(each.resource) if each.resource else None,
            }
        )
        for each in failures
    )
    digest = session.map.note("failures_digest")
    now = digest_of(lines).hex()
    if digest == now and state.failures:
        return state.failures
    stored = _stored(session, state.failures.removeprefix("Binary/"), lines)
    session.map.write_note("failures_digest", now)
    return f"Binary/{stored}"


def _stored(session: Session, before: str, lines: bytes) -> str:
    """The id of the Binary with these lines: the one of before, as long as it is there."""
    kind = "application/x-ndjson"
    if before and session.medplum.contents.replace(before, kind, [lines]):
        return before
    return session.medplum.store_content(kind, [lines])


def stored_failures(session: Session, state: SyncState) -> list[Failure]:
    """The failures that an earlier run put beside the Task."""
    if not state.failures:
        return []
    reply = session.medplum.requests.repeat("GET", f"fhir/R4/{state.failures}", template="Binary/{id}")
    rows = [orjson.loads(line) for line in reply.body.splitlines()] if reply.status == 200 else []
    return [
        Failure(
            Key(each["type"], each["id"]),
            each["status"],
            each["reason"],
            orjson.dumps(each["resource"]) if each["resource"] else b"",
        )
        for each in rows
    ]
