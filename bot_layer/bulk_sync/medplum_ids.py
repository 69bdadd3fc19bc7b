"""What Medplum has of one source: the ids of its resources, from the map or else looked up once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache
from typing import Final
from urllib.parse import quote

from bot_layer.bulk_sync.rules import provenance, upsert
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import Resource
from bot_layer.bulk_sync.rules.references import Key, Query, queries, with_targets
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Known
from bot_layer.errors import AuthError, InputError, PermanentError
from bot_layer.fhir.json import objects

_ABSENT_LIMIT: Final = 200_000
_QUERIES: Final = 10_000


class MedplumIds:
    """Medplum's ids of one source's resources. Thread-safe.

    A type of which Medplum had nothing at the start is not looked up, unless an interrupted run may still have a write
    in transit (then ``session.sole_writer`` is False).
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._absent: set[Key] = set()
        self._unsure: set[str] = set()
        self._compared: set[str] = set()
        self._lock = threading.Lock()
        self._held_at_start = cache(self._look_for)
        self._queried_ids = lru_cache(maxsize=_QUERIES)(self._query)

    def known(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of these keys, as far as it has them."""
        wanted = set(keys)
        known = self.session.map.ids(wanted)
        with self._lock:
            missing = [key for key in wanted if key not in known and key not in self._absent]
        found = self.session.medplum.look_up(key for key in missing if self._may_hold(key.type))
        if found:
            ids = {key: upsert.target_id(key, there) for key, there in found.items()}
            self.session.map.record((key, Known(at)) for key, at in ids.items())
            known |= ids
        with self._lock:
            if len(self._absent) > _ABSENT_LIMIT:
                self._absent.clear()
            self._absent.update(key for key in missing if key not in found)
        return known

    def prepare(self, kinds: Iterable[str]) -> None:
        """Check in parallel for all these types whether Medplum may have any."""
        with ThreadPoolExecutor(self.session.medplum.workers, thread_name_prefix="pf-first") as pool:
            list(pool.map(self._may_hold, dict.fromkeys(kinds)))

    def is_open(self, kind: str) -> bool:
        """True if Medplum may have resources of a type that the map does not contain."""
        return kind not in self._compared and self._may_hold(kind)

    def compared(self, kind: str) -> None:
        """Record that every resource of this type to be written was looked up: what is not in the map is new."""
        if self.session.sole_writer:
            self._compared.add(kind)

    def written(self, keys: Iterable[Key], *, unsure: Iterable[Key]) -> None:
        """Record what was written; an ``unsure`` entry had no answer, and may have been written anyway."""
        with self._lock:
            self._absent.difference_update(keys)
            self._unsure.update(key.type for key in unsure)

    def _may_hold(self, kind: str) -> bool:
        """False if no sync had written this type when this run began: then what is not in the map is new."""
        return not self.session.sole_writer or kind in self._unsure or self._held_at_start(kind)

    def _look_for(self, kind: str) -> bool:
        try:
            return self.session.map.knows(kind) or not self.session.medplum.lookups.has_none(kind)
        except (InputError, PermanentError, AuthError):
            return True

    # -- References by a query

    def with_targets(self, resources: dict[Key, Resource]) -> dict[Key, Resource]:
        """The resources with conditional references resolved, if exactly one resource of this source matches."""
        source = self.session.settings.source
        asking = {
            key: found
            for key, each in resources.items()
            if (not each.raw or b"?identifier=" in each.raw) and (found := queries(each.value, source))
        }
        targets = {each: self._target(each, resources) for found in asking.values() for each in found}
        return resources | {
            key: replace(resources[key], value=with_targets(resources[key].value, targets, source)) for key in asking
        }

    def _target(self, query: Query, resources: Mapping[Key, Resource]) -> str | None:
        """The resource that a query names, among these resources and those in Medplum."""
        wanted = (query.system, query.value)
        ids = {
            key.id
            for key, each in resources.items()
            for one in objects(each.value.get("identifier"))
            if key.type == query.type and (one.get("system"), one.get("value")) == wanted
        }
        ids |= self._queried_ids(query)
        return f"{query.type}/{next(iter(ids))}" if len(ids) == 1 else None

    def _query(self, query: Query) -> frozenset[str]:
        """The source ids of this source's resources in Medplum with an identifier; at most two are needed."""
        ids: set[str] = set()
        if query.type in IMPORTABLE and query.type != "Binary":
            text = f"identifier={quote(f'{query.system}|{query.value}', safe='')}&_count=20"
            with suppress(InputError, PermanentError, AuthError):
                for found in self.session.medplum.server.search_all(query.type, text):
                    key = provenance.imported_key(found, query.type, self.session.settings.source)
                    ids |= {key.id} if key is not None else set()
                    if len(ids) > 1:
                        break
        return frozenset(ids)
