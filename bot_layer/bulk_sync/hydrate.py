"""Reads referenced resources that are missing in the export one by one from the source, if it allows that.

This happens before anything is written, so that references are right at the first write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from bot_layer.bulk_sync.download import store_on_disk
from bot_layer.bulk_sync.progress import with_bad_lines
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of, unusable
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.smart import SERVICE
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
    reader = _Reader(session, worker)
    try:
        # A resource that was read may refer to further missing ones.
        while sum(reader.read(keys) for keys in _missing(session)):
            pass
    except TransientError as fault:
        if fault.service != SERVICE:
            raise
        session.log("PFSyncWorker", "The source does not answer; the next run reads what is missing")
    session.spool.end(READ_ONE_BY_ONE)


def _missing(session: Session) -> Iterator[list[Key]]:
    """The missing targets of this export's references, then of those that earlier runs left pending."""
    for page in (session.spool.missing_targets, session.map.waiting_targets):
        after = Key("", "")
        while keys := page(after, _MANY):
            yield keys
            after = keys[-1]


class _Reader:
    def __init__(self, session: Session, worker: UpsertWorker) -> None:
        self.session, self.worker = session, worker
        self.tried: set[Key] = set()
        self.refusals: Counter[str] = Counter()
        self.readable: set[str] = set()

    def read(self, keys: Sequence[Key]) -> int:
        """Read these from the source unless Medplum has them; returns how many were found."""
        session = self.session
        session.check_time()
        here = session.spool.holds(keys)
        wanted = [key for key in keys if key.type in IMPORTABLE and key not in self.tried and key not in here]
        self.tried.update(keys)
        answered = self.worker.ids.known(wanted).keys() | session.map.asked(wanted)
        barred = session.medplum.lookups.unreadable | session.medplum.lookups.unknown  # known after that search
        found: list[Resource] = []
        absent: list[Key] = []
        try:
            for key in wanted:
                if key not in answered and key.type not in barred:
                    resource = self._read(key)
                    (absent.append(key) if resource is None else found.append(resource))
        finally:
            store_on_disk(session, self.worker, READ_ONE_BY_ONE, found)
            session.map.write_asked(absent)
        return len(found)

    def _read(self, key: Key) -> Resource | None:
        if key.type == "Patient":
            return None  # a patient who was not exported is not in the Group and must not be copied
        if key.type not in self.readable and self.refusals[key.type] >= _REFUSALS:
            return None
        try:
            found = self.session.source.records.read(key.type, key.id)
        except (PermanentError, AuthError):
            self.refusals[key.type] += 1
            return None
        self.readable.add(key.type)
        if found is None or (found.get("resourceType"), found.get("id")) != (key.type, key.id):
            return None
        resource = resource_of(found)
        if reason := unusable(resource):
            # Recorded as requested, so that it is counted only once.
            bad = (key.type, f"{key.type} read one by one: {reason}")
            self.session.change(lambda run: with_bad_lines(run, [bad]))
            return None
        return resource
