"""Reads referenced resources that are missing in the export one by one from the source, if it allows that.

This happens before anything is written, so that references are right at the first write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bot_layer.bulk_sync.download import keep
from bot_layer.bulk_sync.progress import with_bad_lines
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of, unusable
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.errors import AuthError, PermanentError, TransientError

_MANY: Final = 100
_REFUSALS: Final = 3  # a few refusals show whether a whole type is denied or only a resource
READ_ONE_BY_ONE: Final = -1  # the spool's file number for them


def hydrate(session: Session, worker: UpsertWorker) -> None:
    """Store on disk the referenced resources that are not in Medplum and can be read at the source."""
    if not session.settings.hydrate or READ_ONE_BY_ONE in session.spool.whole():
        return
    # A login with other rights may read what was refused before.
    session.map.ask_anew(" ".join(session.settings.scopes or session.store.state.scopes))
    reading = _Reading(session, worker)
    try:
        # A resource that was read may refer to further missing ones.
        while reading.read_all():
            pass
    except TransientError as fault:
        if fault.service != "Practice Fusion":
            raise
        session.log("PFSyncWorker", "The source does not answer; what is missing is read by the next run")
    session.spool.end(READ_ONE_BY_ONE)


@dataclass
class _Reading:
    session: Session
    worker: UpsertWorker
    refusals: Counter[str] = field(default_factory=Counter)
    tried: set[Key] = field(default_factory=set)

    def read_all(self) -> bool:
        """One pass over all missing resources; True if any was read."""
        found = False
        for keys in self._pages():
            found = self._read_some(keys) or found
        return found

    def _pages(self) -> Iterator[list[Key]]:
        after = Key("", "")
        while keys := self.session.spool.missing_targets(after, _MANY):
            yield keys
            after = keys[-1]
        # References that earlier runs left pending.
        after = Key("", "")
        while keys := self.session.map.waiting_targets(after, _MANY):
            yield keys
            after = keys[-1]

    def _read_some(self, keys: Sequence[Key]) -> bool:
        session = self.session
        session.check_time()
        here = session.spool.holds(keys)
        wanted = [key for key in keys if key.type in IMPORTABLE and key not in self.tried and key not in here]
        self.tried.update(keys)
        known = self.worker.known(wanted)
        asked = session.map.asked(wanted)
        barred = session.medplum.lookups.unreadable | session.medplum.lookups.unknown
        missing = [key for key in wanted if key not in known and key not in asked and key.type not in barred]
        some: list[Resource] = []
        absent: list[Key] = []
        try:
            for key in missing:
                resource = self._read(key)
                (absent.append(key) if resource is None else some.append(resource))
        finally:
            keep(session, self.worker, READ_ONE_BY_ONE, some)
            session.map.write_asked(absent)
        return bool(some)

    def _read(self, key: Key) -> Resource | None:
        if key.type == "Patient":
            return None  # a patient who was not exported is not in the Group and must not be copied
        if self.refusals[key.type] >= _REFUSALS:
            return None
        try:
            found = self.session.source.records.read(key.type, key.id)
        except (PermanentError, AuthError):
            self.refusals[key.type] += 1
            return None
        self.refusals[key.type] = -1_000_000
        if found is None or (found.get("resourceType"), found.get("id")) != (key.type, key.id):
            return None
        resource = resource_of(found)
        if reason := unusable(resource):
            self._report(key.type, reason)
            return None
        return resource

    def _report(self, kind: str, reason: str) -> None:
        """Count a resource that must not be written; it is recorded as requested, so that it is counted only once."""
        session = self.session
        with session.lock:
            session.keep(with_bad_lines(session.run, [(kind, f"{kind} read one by one: {reason}")]))
