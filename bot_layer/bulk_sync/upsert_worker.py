"""Writes a batch of the source's resources to Medplum: skip unchanged ones, look up, write, record."""

from __future__ import annotations

import base64
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final
from urllib.parse import quote

import orjson

from bot_layer.bulk_sync.attachments import Attachments
from bot_layer.bulk_sync.rules import provenance, references, upsert
from bot_layer.bulk_sync.rules.attachments import attachments_in
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of, unusable
from bot_layer.bulk_sync.rules.references import Key, Query, queries, with_targets
from bot_layer.bulk_sync.rules.run_state import COUNTED, LocalEdit, add_counts
from bot_layer.bulk_sync.rules.source_identity import stored_as
from bot_layer.bulk_sync.rules.upsert import Found, Incoming
from bot_layer.bulk_sync.state.id_map import Failure, Known, SyncMap
from bot_layer.bulk_sync.target.upserts import Draft, Outcome
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import AuthError, InputError, PermanentError
from bot_layer.fhir.json import Json, objects

_ABSENT_LIMIT: Final = 200_000
_CARRIERS: Final = 4  # contents that are copied in parallel
_CONTENT: Final = re.compile(rb'"(?:url|data)"|\\u')  # the elements of Attachments with content, or an escaped name
_MISSED: Final = "its content could not be fetched for now: it points to the source"
Rows = Mapping[Key, Known]


class _Undecodable(Exception):
    """The data of a Binary is not base64."""


@dataclass(frozen=True)
class Loaded:
    """The result of a unit: counts by type, and edits made in Medplum."""

    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overwritten: int = 0
    kept: int = 0
    rewritten: int = 0  # written a second time, because a reference was broken
    edits: tuple[LocalEdit, ...] = ()
    settled: frozenset[str] = frozenset()  # references to resources that now match the source
    uncopied: Mapping[str, int] = field(default_factory=dict)  # why the content of attachments was not copied

    def plus(self, other: Loaded) -> Loaded:
        """The sum of both results."""
        return Loaded(
            add_counts(self.counts, other.counts),
            self.overwritten + other.overwritten,
            self.kept + other.kept,
            self.rewritten + other.rewritten,
            self.edits + other.edits,
            self.settled | other.settled,
            Counter(self.uncopied) + Counter(other.uncopied),
        )


@dataclass
class UpsertWorker:
    """Writes from one source to one Medplum. Thread-safe."""

    medplum: MedplumWriter
    map: SyncMap
    source: str
    look_at_all: bool = False  # also compare with Medplum what the source sent before
    attachments: Attachments | None = None
    policy: upsert.Policy | None = None  # instead of the setting's
    # False if an interrupted run may still have a write in transit: then every key is looked up.
    alone: bool = False

    def __post_init__(self) -> None:
        self._absent: set[Key] = set()
        self._holds: dict[str, bool] = {}
        self._compared: set[str] = set()
        self._carriers = ThreadPoolExecutor(_CARRIERS, thread_name_prefix="pf-carry")
        self._queried: dict[Query, frozenset[str]] = {}
        self._lock = threading.Lock()

    def unchanged(self, resources: Iterable[Resource]) -> set[Key]:
        """The resources that the source sent before with the same bytes, and that Medplum accepted."""
        if self.look_at_all:
            return set()
        digests = {each.key: provenance.digest_of(_text_of(each)) for each in resources if each.key is not None}
        return {key for key, row in self.map.rows(digests).items() if row.digest == digests[key]}

    def load(self, resources: Sequence[Resource]) -> Loaded:
        """Write these resources and return the result. No two of them may have the same type and id."""
        valid = {each.key: each for each in resources if each.key is not None and not unusable(each)}
        digests = {key: provenance.digest_of(_text_of(each)) for key, each in valid.items()}
        rows = self.map.rows(valid)
        skipped = {key for key, row in rows.items() if row.digest == digests[key] and not self.look_at_all}
        refused = [(each.type, "failed") for each in resources if each.key not in valid]
        loaded = Loaded(counted([*refused, *((key.type, "unchanged") for key in skipped)]))
        left = {key: each for key, each in valid.items() if key not in skipped}
        if not left:
            return loaded
        left = self._with_targets(left)
        try:
            return loaded.plus(self._write(left, digests, rows))
        except (RecursionError, orjson.JSONEncodeError, _Undecodable):
            return loaded.plus(self._one_by_one(left, digests, rows))

    def _one_by_one(self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], rows: Rows) -> Loaded:
        """Load them one by one if one can't be processed (for example, it is nested too deeply), so that only that one
        fails."""
        total = Loaded()
        for key, resource in resources.items():
            try:
                total = total.plus(self._write({key: resource}, digests, rows))
            except (RecursionError, orjson.JSONEncodeError):
                total = total.plus(self._failed({key: resource}, "nested too deeply"))
            except _Undecodable:
                total = total.plus(self._failed({key: resource}, "its data is not base64"))
        return total

    def _failed(self, resources: Mapping[Key, Resource], reason: str) -> Loaded:
        """Record resources that cannot be written as failures."""
        self.map.record((), failures=[Failure(key, 0, reason, _text_of(each)) for key, each in resources.items()])
        return Loaded(counted((key.type, "failed") for key in resources))

    def same(self, resources: Sequence[Resource]) -> tuple[set[Key], frozenset[str]]:
        """The resources that are unchanged in Medplum, and the references to them: one search compares a hundred of a
        type."""
        # Content stored separately from its resource is compared when it is written.
        comparable = [each for each in resources if self._is_comparable(each)]
        same = self._as_compared_before(comparable)
        found = self.medplum.look_up(each.key for each in resources if each.key is not None and each.key not in same)
        self.map.record((key, Known(upsert.target_id(key, there))) for key, there in found.items())
        plan = upsert.plan(found, self._all_incoming(each for each in comparable if each.key in found))
        self.map.record(
            (
                (each.key, Known(there.id, each.digest, _compared(each, there.version)))
                for each, there in plan.unchanged
            ),
            waiting=((each.key, each.unresolved) for each, _ in plan.unchanged),
        )
        same |= {each.key: there.id for each, there in plan.unchanged}
        return set(same), frozenset(f"{stored_as(key.type)}/{at}" for key, at in same.items())

    def _as_compared_before(self, resources: Sequence[Resource]) -> dict[Key, str]:
        """Medplum's ids of the resources that would be stored as before, and whose version in Medplum is the one that
        was compared or written then: only the versions are read."""
        rows = self.map.rows(each.key for each in resources if each.key is not None)
        rows = {key: row for key, row in rows.items() if row.compared}
        if not rows:
            return {}
        versions = self.medplum.lookups.versions({key: row.id for key, row in rows.items()})
        return {
            each.key: rows[each.key].id
            for each in self._all_incoming(each for each in resources if each.key in rows)
            if rows[each.key].compared == _compared(each, versions.get(rows[each.key].id, ""))
        }

    def carries(self, resource: Resource) -> bool:
        """True if the resource has linked content that is stored in Medplum."""
        # Most resources show without a search that they have none.
        if self.attachments is None or (resource.raw and not _CONTENT.search(resource.raw)):
            return False
        return any(attachments_in(resource.value))

    def _is_comparable(self, resource: Resource) -> bool:
        return resource.type != "Binary" and not self.carries(resource)

    def _all_incoming(self, resources: Iterable[Resource]) -> list[Incoming]:
        listed = list(resources)
        known = self.map.ids(set[Key]().union(*[references.targets(each.value, self.source) for each in listed]))
        return [found for each in listed if (found := self._incoming(each, known)) is not None]

    def _incoming(self, resource: Resource, known: Mapping[Key, str]) -> Incoming | None:
        if resource.key is None:
            return None
        try:
            prepared = provenance.prepare(resource.value, self.source)
            rewritten = references.rewrite(prepared, known, self.source)
        except RecursionError:
            return None
        return Incoming(
            resource.key, rewritten.resource, provenance.digest_of(_text_of(resource)), rewritten.unresolved
        )

    def retry(self, failures: Iterable[Failure]) -> Loaded:
        """Write again what Medplum rejected before."""
        resources = (resource_of(orjson.loads(each.resource), raw=each.resource) for each in failures if each.resource)
        total = Loaded()
        while some := list(islice(resources, 100)):
            total = total.plus(self.load(some))
        return total

    # -- References by a query

    def _with_targets(self, resources: dict[Key, Resource]) -> dict[Key, Resource]:
        """The resources with conditional references resolved, if exactly one resource of this source matches."""
        asking = {
            key: found
            for key, each in resources.items()
            if (not each.raw or b"?identifier=" in each.raw) and (found := queries(each.value, self.source))
        }
        targets = {each: self._target(each, resources) for found in asking.values() for each in found}
        return resources | {
            key: replace(resources[key], value=with_targets(resources[key].value, targets, self.source))
            for key in asking
        }

    def _target(self, query: Query, resources: Mapping[Key, Resource]) -> str | None:
        near = {
            key.id
            for key, each in resources.items()
            if key.type == query.type
            and any(
                (one.get("system"), one.get("value")) == (query.system, query.value)
                for one in objects(each.value.get("identifier"))
            )
        }
        ids = near | self._queried_ids(query)
        return f"{query.type}/{next(iter(ids))}" if len(ids) == 1 else None

    def _queried_ids(self, query: Query) -> frozenset[str]:
        """The source ids of this source's resources in Medplum with an identifier; at most two are needed."""
        with self._lock:
            known = self._queried.get(query)
        if known is not None:
            return known
        ids: set[str] = set()
        if query.type in IMPORTABLE and query.type != "Binary":
            text = f"identifier={quote(f'{query.system}|{query.value}', safe='')}&_count=20"
            with suppress(InputError, PermanentError, AuthError):
                for found in self.medplum.server.search_all(query.type, text):
                    if key := provenance.imported_key(found, query.type, self.source):
                        ids.add(key.id)
                    if len(ids) > 1:
                        break
        with self._lock:
            return self._queried.setdefault(query, frozenset(ids))

    # -- What Medplum has

    def known(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of these keys: from the map, else looked up once."""
        wanted = set(keys)
        known = self.map.ids(wanted)
        with self._lock:
            missing = [key for key in wanted if key not in known and key not in self._absent]
        found = self.medplum.look_up(key for key in missing if self._may_hold(key.type))
        if found:
            ids = {key: upsert.target_id(key, there) for key, there in found.items()}
            self.map.record((key, Known(at)) for key, at in ids.items())
            known |= ids
        with self._lock:
            if len(self._absent) > _ABSENT_LIMIT:
                self._absent.clear()
            self._absent.update(key for key in missing if key not in found)
        return known

    def prepare(self, kinds: Iterable[str]) -> None:
        """Check in parallel for all these types whether Medplum may have any."""
        with ThreadPoolExecutor(self.medplum.workers, thread_name_prefix="pf-first") as pool:
            list(pool.map(self._may_hold, dict.fromkeys(kinds)))

    def is_open(self, kind: str) -> bool:
        """True if Medplum may have resources of a type that the map does not contain."""
        return kind not in self._compared and self._may_hold(kind)

    def compared(self, kind: str) -> None:
        """Every resource of this type to be written was looked up: what is not in the map is new."""
        if self.alone:
            self._compared.add(kind)

    def _may_hold(self, kind: str) -> bool:
        """False if no sync had written this type when this run began: then what is not in the map is new."""
        if not self.alone:
            return True
        with self._lock:
            holds = self._holds.get(kind)
        if holds is None:
            try:
                holds = self.map.knows(kind) or not self.medplum.lookups.has_none(kind)
            except (InputError, PermanentError, AuthError):
                holds = True
            with self._lock:
                holds = self._holds.setdefault(kind, holds)
        return holds

    # -- Writing

    def _write(self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], rows: Rows) -> Loaded:
        # Keys in the map may have been written in this run: look them up even if Medplum had none at the start.
        asked = [key for key in resources if key in rows or self.is_open(key.type)]
        found = self.medplum.look_up(asked)
        carrying = frozenset(key for key, each in resources.items() if self.carries(each))
        targets = set[Key]().union(*[references.targets(each.value, self.source) for each in resources.values()])
        if self.attachments is not None:
            targets |= set[Key]().union(*[self.attachments.targets(resources[key].value) for key in carrying])
        known = self.known(targets - resources.keys())
        known |= {key: rows[key].id for key in targets & resources.keys() & rows.keys()}
        unusable = self.medplum.lookups.unknown | self.medplum.lookups.unreadable
        if strangers := {key: each for key, each in resources.items() if key.type in unusable}:
            reason = "Medplum does not have this type, or this login may not use it"
            failed = self._failed(strangers, reason)
            others = {key: each for key, each in resources.items() if key not in strangers}
            return failed.plus(self._write(others, digests, rows)) if others else failed
        batch = _Batch(self, resources, digests, found, known, carrying)
        loaded = Loaded()
        for some in batch.passes():
            loaded = loaded.plus(self._written(batch, some))
        return loaded

    def _written(self, batch: _Batch, keys: Sequence[Key]) -> Loaded:
        drafts = self._drafts(batch, keys)
        outcomes: list[Outcome] = []
        try:
            former = self.map.former(key for key in keys if key not in batch.found)
            outcomes = self.medplum.upsert(drafts, batch.found, known=batch.known, policy=self.policy, former=former)
        finally:
            # An entry without an answer may have been written anyway.
            unsure = set(keys) - {each.key for each in outcomes if each.action != "failed"}
            with self._lock:
                self._holds |= dict.fromkeys((key.type for key in unsure), True)
        batch.settle(outcomes)
        self._record(batch, outcomes)
        became = ((each.key.type, "unchanged" if each.action == "kept" else each.action) for each in outcomes)
        uncopied, batch.uncopied = batch.uncopied, Counter()
        return Loaded(
            counted(became),
            uncopied=uncopied,
            overwritten=sum(each.overwrote_edit for each in outcomes),
            kept=sum(each.action == "kept" for each in outcomes),
            rewritten=sum(each.rewritten for each in outcomes),
            edits=tuple(each.edit for each in outcomes if each.edit is not None),
            settled=frozenset(
                f"{stored_as(each.key.type)}/{each.id}" for each in outcomes if each.action not in ("kept", "failed")
            ),
        )

    def _drafts(self, batch: _Batch, keys: Sequence[Key]) -> list[Draft]:
        """The resources as they are to be written. Several contents are copied in parallel."""
        if not any(key.type == "Binary" or key in batch.carrying for key in keys):
            return [batch.draft(key) for key in keys]
        carried = [self._carriers.submit(batch.draft, key) for key in keys]
        wait(carried)  # all end before the first failure is raised
        return [each.result() for each in carried]

    def _record(self, batch: _Batch, outcomes: Sequence[Outcome]) -> None:
        written = [each for each in outcomes if each.action != "failed"]
        self.map.record(
            ((each.key, self._known(batch, each)) for each in written),
            waiting=((each.key, each.unresolved) for each in written if each.action != "kept"),
            failures=(
                Failure(each.key, each.status, each.reason or _MISSED, _text_of(batch.resources[each.key]))
                for each in outcomes
                if each.action == "failed" or each.key in batch.missed
            ),
        )
        with self._lock:
            self._absent.difference_update(each.key for each in written)

    def _known(self, batch: _Batch, outcome: Outcome) -> Known:
        key, at = outcome.key, batch.known[outcome.key]
        if outcome.action == "kept":
            return Known(at)  # a resource with local edits is compared again next time
        compared = None
        if key.type != "Binary" and key not in batch.carrying:
            resolved = _without(batch.known, outcome.unresolved)
            incoming = self._incoming(batch.resources[key], resolved)
            compared = None if incoming is None else _compared(incoming, outcome.version)
        return Known(at, batch.digests[key], compared)


@dataclass
class _Batch:
    """The resources of a unit, and what is known about them and the targets of their references."""

    worker: UpsertWorker
    resources: Mapping[Key, Resource]
    digests: Mapping[Key, bytes]
    found: Mapping[Key, Found]
    known: dict[Key, str]
    carrying: frozenset[Key]  # whose linked content is stored in Medplum
    missed: set[Key] = field(default_factory=set)
    uncopied: Counter[str] = field(default_factory=Counter)

    def passes(self) -> list[list[Key]]:
        """The keys in passes: content after the patient it belongs to, and before the resources that link to it."""
        sorted_: tuple[list[Key], list[Key], list[Key]] = ([], [], [])
        for key, each in self.resources.items():
            later = key in self.carrying and _owner_in(each.value) is not None
            sorted_[1 if key.type == "Binary" else 2 if later else 0].append(key)
        return [some for some in sorted_ if some]

    def draft(self, key: Key) -> Draft:
        """A resource as it is to be written, still with the source's references."""
        value, there, source = self.resources[key].value, self.found.get(key), self.worker.source
        if key.type == "Binary":
            prepared, content = self._stored(references.rewrite(value, self.known, source).resource, there)
            return Draft(key, prepared, content)
        prepared = provenance.prepare(value, source)
        if self.worker.attachments is not None and key in self.carrying:
            prepared = self.worker.attachments.carry(
                prepared,
                there,
                owner=self._owner(value),
                known=lambda keys: {each: self.known[each] for each in keys if each in self.known},
                missed=lambda: self.missed.add(key),
                left=lambda reason: self.uncopied.update([f"{key.type}: {reason}"]),
            )
        return Draft(key, prepared)

    def _owner(self, value: Json) -> str:
        """The Patient in Medplum that determines who may read a document's content."""
        reference = _owner_in(value)
        key = references.read_reference(reference, self.worker.source) if isinstance(reference, str) else None
        return f"Patient/{self.known[key]}" if key is not None and key.type == "Patient" and key in self.known else ""

    def _stored(self, resource: Json, found: Found | None) -> tuple[Json, str]:
        """The resource that represents a Binary, and the id of its content, which is stored again only if it
        differs."""
        try:
            data = base64.b64decode(str(resource.get("data") or ""))
        except ValueError as fault:  # also for letters that are not ASCII
            raise _Undecodable from fault
        kind = str(resource.get("contentType") or "application/octet-stream")
        digest = provenance.digest_of(kind.encode() + b"\0" + data).hex()
        content_id, before = upsert.content_of(found) if found else ("", "")
        if not content_id or before != digest:
            owner = str((resource.get("securityContext") or {}).get("reference") or "")
            content_id = self.worker.medplum.store_content(kind, [data], owner=owner)
        prepared = provenance.prepare_binary(resource, self.worker.source, content_id=content_id, digest=digest)
        return prepared, content_id

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Record Medplum's ids, so that the resources written next can refer to them."""
        for each in outcomes:
            if each.action != "failed":
                self.known[each.key] = each.target_id


def _owner_in(value: Json) -> object:
    """The reference to the patient of a resource, or None."""
    for name in ("subject", "patient"):
        field_ = value.get(name)
        if isinstance(field_, dict) and "reference" in field_:
            return field_["reference"]
    return None


def _text_of(resource: Resource) -> bytes:
    return resource.raw or orjson.dumps(resource.value)


def _compared(incoming: Incoming, version: str) -> bytes | None:
    """The digest of a comparison with a version in Medplum that found no difference, or of the write that made it."""
    try:
        return provenance.digest_of(version.encode() + orjson.dumps(incoming.resource)) if version else None
    except orjson.JSONEncodeError:
        return None  # nested too deeply: it can't be written


def _without(known: Mapping[Key, str], unresolved: frozenset[Key]) -> Mapping[Key, str]:
    """The ids without those of targets that were not in Medplum yet when the resource was written."""
    return {key: at for key, at in known.items() if key not in unresolved} if unresolved else known


def counted(names: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """A table of counts from pairs of type and result."""
    counts: dict[str, dict[str, int]] = {}
    for kind, action in names:
        row = counts.setdefault(kind, dict.fromkeys(COUNTED, 0))
        row["seen"] += 1
        row[action] += 1
    return counts
