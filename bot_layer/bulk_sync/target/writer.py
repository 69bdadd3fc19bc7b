"""Many resources into Medplum: looked up 100 at a time, written in batches, paced by the quota, never twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bot_layer.bulk_sync.rules import upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.target.changes import Changed, Changes
from bot_layer.bulk_sync.target.content import Contents
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.bulk_sync.target.upserts import Draft, Outcome, Upserts
from bot_layer.fhir.json import Json
from bot_layer.http import pace
from bot_layer.medplum.batches import Batches
from bot_layer.medplum.gate import Gate
from bot_layer.medplum.login import Login
from bot_layer.medplum.requests import MedplumRequests


@dataclass
class MedplumWriter:
    """Medplum as a bulk sync uses it. Safe to share between threads."""

    base_url: str
    login: Login
    source: str
    share: float = 0.8
    workers: int = 8
    max_bytes: int = 900_000
    policy: upsert.Policy = "source"
    conditional: bool = False  # batches of conditional PUTs
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        self.requests = MedplumRequests(self.base_url, self.login, self.share, self.wait, self.clock)
        self.lookups = Lookups(self.requests, self.source, self.workers)
        batches = Batches(self.requests, Gate(pace.Concurrency(self.workers), self.clock))
        self.changes = Changes(self.lookups, batches, self.max_bytes)
        self._upserts = Upserts(self.lookups, batches, self.source, self.max_bytes, self.conditional)
        self.contents = Contents(self.requests)

    def look_up(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """What Medplum holds for these keys: one search for 100 of a type."""
        return self.lookups.start(keys)()

    def start_look_up(self, keys: Iterable[Key]) -> Callable[[], dict[Key, Found]]:
        """The same, asked now and read later."""
        return self.lookups.start(keys)

    def has_none(self, resource_type: str) -> bool:
        """True where Medplum holds nothing at all of a type, whoever brought it."""
        return self.lookups.has_none(resource_type)

    def upsert(
        self,
        drafts: Sequence[Draft],
        found: Mapping[Key, Found] | None = None,
        *,
        known: Mapping[Key, str] | None = None,
        policy: upsert.Policy | None = None,
        former: Mapping[Key, str] | None = None,
    ) -> list[Outcome]:
        """What became of each resource: exactly one outcome for every one; no two may have the same key."""
        return self._upserts.write(drafts, found, known=known, policy=policy or self.policy, former=former)

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> Changed:
        """Edit what is there with If-Match; None leaves it."""
        return self.changes.change(keys, change)

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that is gone now."""
        return self.changes.delete(ids)

    def store_content(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> str:
        """The id of a Binary that holds these bytes."""
        return self.contents.store(content_type, pieces, owner=owner)
