"""Writes many resources to Medplum: looked up 100 at a time, written in batches, paced by the quota, without
duplicates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bot_layer.bulk_sync.rules import upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.target.changes import Changed, Changes
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.bulk_sync.target.upserts import Draft, Outcome, Upserts
from bot_layer.fhir.json import Json
from bot_layer.medplum.batches import Batches
from bot_layer.medplum.binary import create_binary, replace_binary
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.gate import Concurrency, Gate
from bot_layer.medplum.quota import Pace


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
        self.changes = Changes(self.lookups, self.batches, self.max_bytes)
        self._upserts = Upserts(self.lookups, self.batches, self.source, self.max_bytes, self.conditional)

    def look_up(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """The resources in Medplum for these keys: one search for 100 of a type."""
        return self.lookups.start(keys)()

    def upsert(
        self,
        drafts: Sequence[Draft],
        found: Mapping[Key, Found] | None = None,
        *,
        known: Mapping[Key, str] | None = None,
        policy: upsert.Policy | None = None,
        former: Mapping[Key, str] | None = None,
    ) -> list[Outcome]:
        """Write the resources; exactly one outcome for each. No two may have the same key."""
        return self._upserts.write(drafts, found, known=known, policy=policy or self.policy, former=former)

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> Changed:
        """Edit existing resources with If-Match; None means no change."""
        return self.changes.change(keys, change)

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that no longer exists."""
        return self.changes.delete(ids)

    def store_content(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> str:
        """Store these bytes in a Binary and return its id."""
        return create_binary(self.server, content_type, pieces, owner=owner, before=self.batches.may_write)

    def replace_content(self, content_id: str, content_type: str, pieces: Iterable[bytes]) -> str:
        """Replace the bytes of a Binary and return its id, or that of a new one if it is not found."""
        return replace_binary(self.server, content_id, content_type, pieces, before=self.batches.may_write)
