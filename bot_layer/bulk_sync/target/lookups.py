"""Looks up what Medplum already has: 100 identifiers of a type in one search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from bot_layer.bulk_sync.rules.provenance import imported_from
from bot_layer.bulk_sync.rules.references import Key, by_type
from bot_layer.bulk_sync.rules.source_identity import lookup_query, source_id_of, stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.errors import AuthError, InputError, PermanentError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

LOOKUP_SIZE: Final = 100
_IDS: Final = 200  # Medplum's ids are shorter, so that the URL of a search has room for more


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

    def look_up(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """The resources in Medplum for these keys."""
        asked = [self._askers.submit(self._found, kind, ids) for kind, ids in by_type(keys, LOOKUP_SIZE)]
        wait(asked)  # all end before the first failure is raised: no search may be running when the lease is released
        return {key: there for each in asked for key, there in each.result().items()}

    def has_none(self, kind: str) -> bool:
        """True if Medplum has no resource of this source type that any sync has written."""
        return not self.server.search(stored_as(kind), f"{lookup_query(kind, [''])}&_count=1&_fields=id")

    def versions(self, ids: Mapping[Key, str]) -> dict[str, str]:
        """The current version by Medplum id, for those that exist. Medplum is much quicker with it than with
        identifiers and whole resources."""
        return {
            str(found["id"]): str(found["meta"]["versionId"])
            for kind, some in by_type(((key.type, at) for key, at in ids.items()), _IDS)
            for found in self._guarded(kind, f"_id={','.join(some)}&_count=1000&_fields=id")
        }

    def _guarded(self, kind: str, query: str) -> list[Json]:
        """The matches of a search; none where Medplum does not have the type, or this login may not read it."""
        if kind in self.unknown or kind in self.unreadable:
            return []
        try:
            return list(self.server.search_all(stored_as(kind), query))
        except (InputError, PermanentError) as fault:
            # The ids are valid FHIR ids, so only the type can be wrong.
            if isinstance(fault, PermanentError) and fault.status != 400:
                raise
            self.unknown.add(kind)
        except AuthError as fault:
            if fault.code != "medplum-rights-refused":
                raise
            self.unreadable.add(kind)
        return []

    def _found(self, kind: str, ids: list[str]) -> dict[Key, Found]:
        wanted, found = set(ids), dict[Key, Found]()
        profile = self.server.profile  # read from the token
        ours = self.writers | {profile}
        for resource in self._guarded(kind, f"{lookup_query(kind, ids)}&_count=1000"):
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
