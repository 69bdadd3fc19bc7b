"""Writes many resources to Medplum: looked up 100 at a time, written in batches, paced by the quota, without
duplicates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import orjson

from bot_layer.bulk_sync.rules import upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, Write, write_entry
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.bulk_sync.target.upserts import Draft, Outcome, Upsert
from bot_layer.fhir.json import Json
from bot_layer.medplum.batches import Batches, Unfinished
from bot_layer.medplum.binary import create_binary, replace_binary
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.gate import Concurrency, Gate
from bot_layer.medplum.quota import Pace
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry

_MANY: Final = 100
_GONE: Final = (404, 410)


@dataclass(frozen=True)
class Changed:
    """Each resource as last read, those that were written, and those that Medplum rejected."""

    seen: dict[Key, Found] = field(default_factory=dict)
    done: set[Key] = field(default_factory=set)
    refused: set[Key] = field(default_factory=set)


@dataclass
class MedplumWriter:
    """Medplum for a bulk sync. Thread-safe."""

    login: Medplum
    source: str
    share: float = 0.8
    workers: int = 8
    max_bytes: int = 900_000
    policy: upsert.Policy = "source"
    conditional: bool = False  # batches of conditional PUTs
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.share, self.wait, self.clock)
        self.server = self.login.in_bulk(self.pace)
        self.lookups = Lookups(self.server, self.source, self.workers)
        self.batches = Batches(self.server, Gate(Concurrency(self.workers), self.clock))

    def look_up(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """The resources in Medplum for these keys: one search for 100 of a type."""
        return self.lookups.look_up(keys)

    def upsert(
        self,
        drafts: Sequence[Draft],
        found: Mapping[Key, Found] | None = None,
        *,
        known: Mapping[Key, str] | None = None,
        policy: upsert.Policy | None = None,
        former: Mapping[Key, str] | None = None,
    ) -> list[Outcome]:
        """Write the resources; exactly one outcome for each. No two may have the same key.

        ``known`` are Medplum's ids of other resources; ``former`` the ids of what was deleted in Medplum.
        """
        return Upsert(
            self.lookups,
            self.batches,
            self.source,
            self.max_bytes,
            self.conditional,
            policy or self.policy,
            {each.key: each for each in drafts},
            dict(known or {}),
            dict(former or {}),
        ).run(found)

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> Changed:
        """Edit existing resources with If-Match; None means no change. TransientError if Medplum rejects the edits
        repeatedly."""
        left, unsure, changed = list(dict.fromkeys(keys)), set[Key](), Changed()

        def attempt() -> None:
            nonlocal left
            found = self.look_up(left)
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
                    if verdict.kind == "again":
                        left.append(entry.key)
                        unsure.update({entry.key} if verdict.maybe_done else ())
                    else:
                        (changed.done if verdict.kind == "done" else changed.refused).add(entry.key)
            if left:
                raise Unfinished

        self.batches.repeat(attempt)
        return changed

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that no longer exists. Idempotent."""
        gone: dict[tuple[str, str], bool] = {}

        def attempt() -> None:
            left = [each for each in dict.fromkeys(ids) if each not in gone]
            for start in range(0, len(left), _MANY):
                entries = [_deletion(*each) for each in left[start : start + _MANY]]
                for entry, verdict in self.batches.send_all(entries):
                    if verdict.kind != "again" or verdict.status in _GONE:
                        gone[entry.key] = verdict.kind == "done" or verdict.status in _GONE
            if any(each not in gone for each in left):
                raise Unfinished

        with suppress(Unfinished):
            self.batches.repeat(attempt)
        return [gone.get(each, False) for each in ids]

    def store_content(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> str:
        """Store these bytes in a Binary and return its id."""
        return create_binary(self.server, content_type, pieces, owner=owner, before=self.batches.may_write)

    def replace_content(self, content_id: str, content_type: str, pieces: Iterable[bytes]) -> str:
        """Replace the bytes of a Binary and return its id, or that of a new one if it is not found."""
        return replace_binary(self.server, content_id, content_type, pieces, before=self.batches.may_write)


def _deletion(kind: str, resource_id: str) -> Entry[tuple[str, str]]:
    request = {"method": "DELETE", "url": f"{kind}/{resource_id}"}
    return Entry((kind, resource_id), b'{"request":%b}' % orjson.dumps(request))
