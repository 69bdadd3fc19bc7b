"""Looks up what Medplum already has: 100 identifiers of a type in one search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Final

from bot_layer.bulk_sync.rules.provenance import imported_from
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import lookup_query, source_id_of, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.errors import AuthError, InputError, PermanentError
from bot_layer.medplum.client import Medplum

LOOKUP_SIZE: Final = 100


@dataclass
class Lookups:
    """Searches by the sync's own identifiers, several in parallel. Thread-safe."""

    server: Medplum
    source: str
    workers: int
    writers: frozenset[str] = frozenset()  # every login that writes for this sync

    def __post_init__(self) -> None:
        self.unknown: set[str] = set()  # types that Medplum does not support
        self.unreadable: set[str] = set()  # types that this login may not read
        self.foreign: set[Key] = set()  # keys that another source also uses in Medplum
        self._askers = ThreadPoolExecutor(self.workers, thread_name_prefix="pf-ask")

    def start(self, keys: Iterable[Key]) -> Callable[[], dict[Key, Found]]:
        """Start the searches in parallel; the returned function waits for the results and returns what Medplum has."""
        by_type: dict[str, list[str]] = {}
        for key in dict.fromkeys(keys):
            by_type.setdefault(key.type, []).append(key.id)
        asked = [
            self._askers.submit(self._found, kind, ids[start : start + LOOKUP_SIZE])
            for kind, ids in by_type.items()
            if kind not in self.unknown and kind not in self.unreadable
            for start in range(0, len(ids), LOOKUP_SIZE)
        ]

        def read() -> dict[Key, Found]:
            # All end before the first failure is raised, so that no search is running when the lease is released.
            wait_for(asked)
            return {key: there for each in asked for key, there in each.result().items()}

        return read

    def has_none(self, kind: str) -> bool:
        """True if Medplum has no resource of this source type that any sync has written."""
        return not self.server.search(stored_as(kind), f"{lookup_query(kind, [''])}&_count=1&_fields=id")

    def alive(self, ids: Mapping[Key, str]) -> set[str]:
        """The Medplum ids that still exist, with any content."""
        by_type: dict[str, list[str]] = {}
        for key, at in ids.items():
            by_type.setdefault(key.type, []).append(at)
        return {
            str(found["id"])
            for kind, some in by_type.items()
            for start in range(0, len(some), LOOKUP_SIZE)
            for found in self.server.search_all(
                kind, f"_id={','.join(some[start : start + LOOKUP_SIZE])}&_count=1000&_fields=id"
            )
        }

    def _found(self, kind: str, ids: list[str]) -> dict[Key, Found]:
        try:
            return self._searched(kind, ids)
        except (InputError, PermanentError) as fault:
            # The ids are valid FHIR ids, so only the type can be wrong.
            if isinstance(fault, PermanentError) and fault.status != 400:
                raise
            self.unknown.add(kind)
            return {}
        except AuthError as fault:
            if fault.code != "medplum-rights-refused":
                raise
            self.unreadable.add(kind)
            return {}

    def _searched(self, kind: str, ids: list[str]) -> dict[Key, Found]:
        wanted, found = set(ids), dict[Key, Found]()
        profile = self.server.profile  # read from the token
        ours = self.writers | {profile}
        for resource in self.server.search_all(stored_as(kind), f"{lookup_query(kind, ids)}&_count=1000"):
            source_id = source_id_of(resource, kind)
            if source_id is None or source_id not in wanted:
                continue
            key = Key(kind, source_id)
            if not imported_from(resource, key, self.source):
                self.foreign.add(key)
                continue
            meta = resource.get("meta") or {}
            author = str((meta.get("author") or {}).get("reference") or "")
            edited = bool(author and profile and author not in ours)
            there = Found(str(resource["id"]), str(meta.get("versionId") or ""), resource, edited)
            if key in found:
                # Duplicates that others created: always update the same one.
                there = min(there, found[key], key=lambda each: each.id)
            found[key] = there
        return found
