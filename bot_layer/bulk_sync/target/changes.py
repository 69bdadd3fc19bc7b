"""Changes or deletes resources in Medplum in batches, until Medplum has accepted all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import orjson

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, Write, write_entry
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.fhir.json import Json
from bot_layer.medplum.batches import Batches, Unfinished, Verdict
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry

_MANY: Final = 100


@dataclass(frozen=True)
class Changed:
    """Each resource as last read, those that were written, and those that Medplum rejected."""

    seen: dict[Key, Found] = field(default_factory=dict)
    done: set[Key] = field(default_factory=set)
    refused: set[Key] = field(default_factory=set)

    def note(self, key: Key, verdict: Verdict) -> None:
        """Record Medplum's verdict on one of them."""
        if verdict.kind != "again":
            (self.done if verdict.kind == "done" else self.refused).add(key)


@dataclass(frozen=True)
class Changes:
    """Edits and deletions. Thread-safe."""

    lookups: Lookups
    batches: Batches
    max_bytes: int

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> Changed:
        """Edit existing resources with If-Match; None means no change. TransientError if Medplum rejects the edits
        repeatedly."""
        left, unsure, changed = list(dict.fromkeys(keys)), set[Key](), Changed()

        def attempt() -> None:
            nonlocal left
            found = self.lookups.start(left)()
            changed.seen.update(found)
            wanted = {key: edited for key, there in found.items() if (edited := change(key, there)) is not None}
            # An answer was lost after the write: Medplum has what we sent.
            changed.done.update((unsure & found.keys()) - wanted.keys())
            writes = (
                Write(Incoming(key, each), each, found[key].id, found[key].version) for key, each in wanted.items()
            )
            entries = [write_entry(each) for each in writes]
            left = []
            for batch in batch_entries.batches(entries, max_bytes=self.max_bytes):
                for entry, verdict in self.batches.send_all(batch):
                    changed.note(entry.key, verdict)
                    if verdict.kind == "again":
                        left.append(entry.key)
                        unsure.update({entry.key} if verdict.maybe_done else ())
            if left:
                raise Unfinished

        self.batches.repeat(attempt)
        return changed

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that no longer exists. Idempotent."""
        done: dict[tuple[str, str], bool] = {}
        left = list(dict.fromkeys(ids))

        def attempt() -> None:
            nonlocal left
            again: list[tuple[str, str]] = []
            for start in range(0, len(left), _MANY):
                entries = [_deletion(*each) for each in left[start : start + _MANY]]
                for entry, verdict in self.batches.send_all(entries):
                    each = (entry.key.type, entry.key.id)
                    if verdict.kind == "again" and verdict.status not in (404, 410):
                        again.append(each)
                    else:
                        done[each] = verdict.kind == "done" or verdict.status in (404, 410)
            left = again
            if left:
                raise Unfinished

        with suppress(Unfinished):
            self.batches.repeat(attempt)
        return [done.get(each, False) for each in ids]


def _deletion(kind: str, resource_id: str) -> Entry[Key]:
    request = {"method": "DELETE", "url": f"{kind}/{resource_id}"}
    return Entry(Key(kind, resource_id), b'{"request":%b}' % orjson.dumps(request))
