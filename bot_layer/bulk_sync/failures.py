"""Resources that Medplum rejected: stored with the Task, and retried on request."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson

from bot_layer.bulk_sync.progress import with_loaded
from bot_layer.bulk_sync.rules.ndjson import resource_of
from bot_layer.bulk_sync.rules.plan import still_missing
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import EditList, Run, SyncState
from bot_layer.bulk_sync.rules.smart import phrase
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Failure, SyncMap
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.errors import InputError, PermanentError
from bot_layer.medplum.binary import read_binary

_TOGETHER: Final = 100


def retry(session: Session, state: SyncState) -> SyncState:
    """Write again what failed before; returns the state with a run that only has to be finished."""
    edits = carried_edits(session, state)
    run = Run(id=uuid.uuid4().hex, started=session.clock(), phase="finish", full=True, edits=edits)
    run = run.lacking(still_missing(state, run))
    texts = (each.resource for each in session.map.failures() if each.resource)
    resources = (resource_of(orjson.loads(text), raw=text) for text in texts)
    worker = UpsertWorker(session, run)
    while some := list(islice(resources, _TOGETHER)):
        run = with_loaded(run, worker.load(some))
    return session.save(run, state)


def carried_edits(session: Session, state: SyncState) -> EditList:
    """The edits that a new run takes over from the list of an earlier one."""
    if state.run is None or session.settings.local_edits != "report":
        return EditList()
    return EditList(state.run.edits.listed)  # the source does not send these again unless they change


def store_failures(session: Session, state: SyncState) -> str:
    """Store the rejected resources in a Binary linked from the Task, so that they survive the loss of this machine's
    disk."""
    if unreadable := {each.key for each in session.map.failures() if not each.readable}:
        # The map has them encrypted with another key. From Medplum they are stored again with the current one.
        copies = [each for each in stored_failures(session, state) if each.key in unreadable and each.resource]
        session.map.record((), failures=copies)
        if left := len(unreadable) - len(copies):
            session.log(
                "PFSyncWorker",
                f"{left} refused resources in the map can't be read and are kept: set BOT_HOST_INBOX_KEY to the key "
                "that they were stored with, then use --retry-failed.",
            )
    lines = _Lines(session.map)
    if next(iter(lines), None) is None:
        session.medplum.delete([("Binary", state.failures.removeprefix("Binary/"))] if state.failures else [])
        return ""
    now = lines.digest()
    if session.map.note("failures_digest") == now and state.failures:
        return state.failures
    for status, many in sorted(Counter(each.status for each in session.map.failures()).items()):
        reason = phrase(status) if status else "not sent"
        session.log("PFSyncWorker", f"Failed to upsert resource: {reason} ({many} kept for --retry-failed)")
    stored = session.medplum.replace_content(state.failures.removeprefix("Binary/"), "application/x-ndjson", lines)
    session.map.write_note("failures_digest", now)
    return f"Binary/{stored}"


@dataclass(frozen=True)
class _Lines:
    """All failures as NDJSON; each iteration starts at the first one."""

    map: SyncMap

    def __iter__(self) -> Iterator[bytes]:
        for each in self.map.failures():
            # The resource keeps the source's exact bytes.
            resource = orjson.Fragment(each.resource or b"null")
            kept = {**each.key._asdict(), "status": each.status, "reason": each.reason, "resource": resource}
            yield orjson.dumps(kept, option=orjson.OPT_APPEND_NEWLINE)

    def digest(self) -> str:
        """A digest of the content."""
        digest = hashlib.blake2b(digest_size=16)
        for line in self:
            digest.update(line)
        return digest.hexdigest()


def stored_failures(session: Session, state: SyncState) -> list[Failure]:
    """The failures that an earlier run stored with the Task."""
    if not state.failures:
        return []
    try:
        kept = read_binary(session.medplum.server, state.failures.removeprefix("Binary/"))
    except (InputError, PermanentError):
        return []
    rows = map(orjson.loads, kept.splitlines())
    return [Failure(Key(row["type"], row["id"]), row["status"], row["reason"], _sent(row["resource"])) for row in rows]


def _sent(resource: object) -> bytes:
    return b"" if resource is None else orjson.dumps(resource)
