"""What Medplum refused: kept beside the Task, and tried again when asked."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec
import xxhash

from bot_layer.bulk_sync.overwriting import carried_edits
from bot_layer.bulk_sync.progress import with_loaded
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Failure, SyncMap
from bot_layer.bulk_sync.worker_pool import loading

_NONE: Final = b"null"


def retry(session: Session, state: SyncState) -> SyncState:
    """The state with a run that has written what failed before, and only has to be finished."""
    edits = carried_edits(session, state)
    run = Run(id=uuid.uuid4().hex, started=session.clock(), phase="finish", full=True, edits=edits)
    with loading(session, run) as files:
        loaded = files.loader.retry(session.map.failures())
    return session.save(with_loaded(run, loaded), state)


def store_failures(session: Session, state: SyncState) -> str:
    """What Medplum refused, as a Binary beside the Task, so that it outlives this machine's disk."""
    lines = _Lines(session.map)
    if next(iter(lines), None) is None:
        session.medplum.delete([("Binary", state.failures.removeprefix("Binary/"))] if state.failures else [])
        return ""
    now = lines.digest()
    if session.map.note("failures_digest") == now and state.failures:
        return state.failures
    for status, many in sorted(Counter(each.status for each in session.map.failures()).items()):
        session.log("PFSyncWorker", f"Failed to upsert resource: {_said(status)} ({many} kept for --retry-failed)")
    stored = _stored(session, state.failures.removeprefix("Binary/"), lines)
    session.map.write_note("failures_digest", now)
    return f"Binary/{stored}"


def _said(status: int) -> str:
    """A status with its words; some of what fails is never sent."""
    known = {each.value: each.phrase for each in HTTPStatus}
    return f"{status} {known.get(status, '')}".rstrip() if status else "not sent"


class _Kept(msgspec.Struct):
    """A line of that Binary. The resource is what the source sent, byte by byte: it may be what nothing can parse."""

    type: str
    id: str
    status: int
    reason: str
    resource: msgspec.Raw


@dataclass(frozen=True)
class _Lines:
    """All failures as NDJSON, from the first one each time it is asked for."""

    map: SyncMap

    def __iter__(self) -> Iterator[bytes]:
        for each in self.map.failures():
            kept = _Kept(*each.key, each.status, each.reason, msgspec.Raw(each.resource or _NONE))
            yield msgspec.json.encode(kept) + b"\n"

    def digest(self) -> str:
        """What tells it from others."""
        digest = xxhash.xxh3_128()
        for line in self:
            digest.update(line)
        return digest.hexdigest()


def _stored(session: Session, before: str, lines: Iterable[bytes]) -> str:
    """The id of the Binary with these lines: the one of before, as long as it is there."""
    kind = "application/x-ndjson"
    if before and session.medplum.aside.replace(before, kind, lines):
        return before
    return session.medplum.aside.store(kind, lines)


def stored_failures(session: Session, state: SyncState) -> list[Failure]:
    """The failures that an earlier run put beside the Task."""
    if not state.failures:
        return []
    reply = session.medplum.requests.repeat("GET", f"fhir/R4/{state.failures}", template="Binary/{id}")
    rows = msgspec.json.Decoder(_Kept).decode_lines(reply.body) if reply.status == 200 else []
    return [Failure(Key(each.type, each.id), each.status, each.reason, _sent(each)) for each in rows]


def _sent(kept: _Kept) -> bytes:
    resource = bytes(kept.resource)
    return b"" if resource == _NONE else resource
