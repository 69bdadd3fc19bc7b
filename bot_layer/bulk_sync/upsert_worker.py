"""A handful of the source's resources into Medplum: skip, rewrite, look up, write, remember."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import orjson

from bot_layer.bulk_sync.attachments import Attachments
from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import references, upsert
from bot_layer.bulk_sync.rules.local_edits import LocalEdit
from bot_layer.bulk_sync.rules.ndjson import BadLine, Resource, resource_of
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import COUNTED, add_counts
from bot_layer.bulk_sync.rules.source_identity import stored_as
from bot_layer.bulk_sync.rules.upsert import Found, Incoming
from bot_layer.bulk_sync.state.id_map import Failure, SyncMap
from bot_layer.bulk_sync.target.upserts import Outcome
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import PermanentError
from bot_layer.fhir.json import Json

_ABSENT_LIMIT: Final = 200_000
_MISSED: Final = "its content could not be fetched for now: it points to the source"


class _Undecodable(Exception):
    """The data of a Binary is none."""


@dataclass(frozen=True)
class Loaded:
    """What a handful brought: counts by type, edits of Medplum's users overwritten or kept, and places of failures."""

    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overwritten: int = 0
    kept: int = 0
    edits: tuple[LocalEdit, ...] = ()
    settled: frozenset[str] = frozenset()  # references of what is in Medplum as the source says
    bad: tuple[BadLine, ...] = ()  # resources that can't be kept under any name

    def plus(self, other: Loaded) -> Loaded:
        """Both together."""
        return Loaded(
            add_counts(self.counts, other.counts),
            self.overwritten + other.overwritten,
            self.kept + other.kept,
            self.edits + other.edits,
            self.settled | other.settled,
            self.bad + other.bad,
        )


@dataclass
class Loader:
    """Loads into one Medplum from one source. Safe to share between threads."""

    medplum: MedplumWriter
    map: SyncMap
    source: str
    conditional: bool = False
    look_at_all: bool = False
    seeing: bool = False
    attachments: Attachments | None = None
    policy: upsert.Policy | None = None  # in place of the setting's
    # False where a run that broke off may still have a write under way: then every key is looked up.
    alone: bool = False

    def __post_init__(self) -> None:
        self._absent: set[Key] = set()
        self._held: dict[str, bool] = {}
        self._lock = threading.Lock()

    def load(self, resources: Sequence[Resource]) -> Loaded:
        """What became of these resources. No two of them may have the same type and id."""
        valid = {each.key: each for each in resources if each.key is not None}
        nameless = [each for each in resources if each.key is None]
        loaded = Loaded(
            _counted((each.type, "failed") for each in nameless),
            bad=tuple(BadLine(each.number, "its id or its meta is none of FHIR's") for each in nameless),
        )
        if self.seeing:
            self.map.write_seen(valid)
        digests = {key: source_mark.digest_of(_text_of(each)) for key, each in valid.items()}
        rows = self.map.rows(valid)
        skipped = {key for key, row in rows.items() if row[1] == digests[key] and not self.look_at_all}
        loaded = loaded.plus(Loaded(_counted((key.type, "unchanged") for key in skipped)))
        left = {key: each for key, each in valid.items() if key not in skipped}
        if not left:
            return loaded
        try:
            return loaded.plus(self._write(left, digests, rows))
        except (RecursionError, _Undecodable):
            return loaded.plus(self._one_by_one(left, digests, rows))

    def _one_by_one(
        self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], mapped: Container[Key]
    ) -> Loaded:
        """The same where one of them can't be worked on (it is nested too deeply, say): it fails alone."""
        total = Loaded()
        for key, resource in resources.items():
            try:
                total = total.plus(self._write({key: resource}, digests, mapped))
            except RecursionError:
                total = total.plus(self._failed({key: resource}, "nested too deeply"))
            except _Undecodable:
                total = total.plus(self._failed({key: resource}, "its data is not base64"))
        return total

    def _failed(self, resources: Mapping[Key, Resource], reason: str) -> Loaded:
        """What can't be written at all."""
        self.map.record((), failures=[Failure(key, 0, reason, _text_of(each)) for key, each in resources.items()])
        return Loaded(_counted((key.type, "failed") for key in resources))

    def retry(self, failures: Iterable[Failure]) -> Loaded:
        """Write once more what Medplum refused before."""
        resources = (resource_of(orjson.loads(each.resource), raw=each.resource) for each in failures if each.resource)
        total = Loaded()
        while some := list(islice(resources, 100)):
            total = total.plus(self.load(some))
        return total

    def known(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of these: from the map, else looked up, once."""
        wanted = set(keys)
        known = self.map.ids(wanted)
        with self._lock:
            missing = [key for key in wanted if key not in known and key not in self._absent]
        found = self._found(missing)
        if found:
            ids = {key: upsert.target_id(key, there) for key, there in found.items()}
            self.map.record((key, at, None) for key, at in ids.items())
            known |= ids
        with self._lock:
            if len(self._absent) > _ABSENT_LIMIT:
                self._absent.clear()
            self._absent.update(key for key in missing if key not in found)
        return known

    def _found(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """What Medplum has of these; a type that it does not know has nothing."""
        kinds: dict[str, list[Key]] = {}
        for key in keys:
            if self._may_hold(key.type):
                kinds.setdefault(key.type, []).append(key)
        found: dict[Key, Found] = {}
        for read in [self.medplum.start_look_up(some) for some in kinds.values()]:
            try:
                there = read()
            except PermanentError:
                continue
            found |= {
                key: each for key, each in there.items() if source_mark.brought_by(each.resource, key, self.source)
            }
        return found

    def prepare(self, kinds: Iterable[str]) -> None:
        """Ask for all these types at once what would else be asked type by type."""
        with ThreadPoolExecutor(self.medplum.workers, thread_name_prefix="pf-first") as pool:
            list(pool.map(self._may_hold, dict.fromkeys(kinds)))

    def _may_hold(self, kind: str) -> bool:
        """False where Medplum had nothing of a type when this run began: then what the map does not know is new."""
        if not self.alone:
            return True
        with self._lock:
            held = self._held.get(kind)
        if held is None:
            try:
                held = self.map.knows(kind) or not self.medplum.has_none(stored_as(kind))
            except PermanentError:
                held = True
            with self._lock:
                held = self._held.setdefault(kind, held)
        return held

    def _write(self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], mapped: Container[Key]) -> Loaded:
        targets = set[Key]().union(*[self._targets(each.value) for each in resources.values()])
        # What the map knows may have come in this very run: a source that sends an id twice sends one resource.
        asked = [key for key in resources if key in mapped or self._may_hold(key.type)]
        read = self.medplum.start_look_up(asked)
        try:
            known = self.known(targets)
        finally:
            found = read()
        if strangers := {key: each for key, each in resources.items() if key.type in self.medplum.unknown}:
            failed = self._failed(strangers, "Medplum does not have this type")
            others = {key: each for key, each in resources.items() if key not in strangers}
            return failed.plus(self._write(others, digests, mapped)) if others else failed
        contents: dict[Key, str] = {}
        missed: set[Key] = set()
        incoming = [
            self._incoming(key, each, digests[key], known, found.get(key), contents=contents, missed=missed)
            for key, each in resources.items()
        ]
        outcomes: list[Outcome] = []
        try:
            if self.conditional:
                outcomes = self.medplum.upsert_conditionally(incoming, found)
            else:
                former = self.map.former(key for key in resources if key not in found)
                outcomes = self.medplum.upsert(incoming, found, policy=self.policy, former=former)
        finally:
            # What was not answered for may be there in spite of it.
            unsure = set(resources) - {each.key for each in outcomes if each.action != "failed"}
            with self._lock:
                self._held |= dict.fromkeys((key.type for key in unsure), True)
        self._record(outcomes, resources, contents, missed)
        became = ((each.key.type, "unchanged" if each.action == "kept" else each.action) for each in outcomes)
        return Loaded(
            _counted(became),
            overwritten=sum(each.overwrote_edit for each in outcomes),
            kept=sum(each.action == "kept" for each in outcomes),
            edits=tuple(each.edit for each in outcomes if each.edit is not None),
            settled=frozenset(
                f"{stored_as(each.key.type)}/{each.id}" for each in outcomes if each.action not in ("kept", "failed")
            ),
        )

    def _targets(self, value: Json) -> frozenset[Key] | set[Key]:
        targets = references.targets(value, self.source)
        return targets if self.attachments is None else targets | self.attachments.targets(value)

    def _incoming(
        self,
        key: Key,
        resource: Resource,
        digest: bytes,
        known: Mapping[Key, str],
        there: Found | None,
        *,
        contents: dict[Key, str],
        missed: set[Key],
    ) -> Incoming:
        """A resource as it is to be written."""
        rewritten = references.rewrite(resource.value, known, self.source)
        if key.type == "Binary":
            prepared, contents[key] = self._stored(rewritten.resource, there)
        else:
            prepared = source_mark.prepare(rewritten.resource, self.source)
        if self.attachments is not None:
            prepared = self.attachments.carry(prepared, there, known=self.known, missed=lambda: missed.add(key))
        return Incoming(key, prepared, digest, rewritten.unresolved)

    def _stored(self, resource: Json, found: Found | None) -> tuple[Json, str]:
        """What stands for a Binary, and the id of its content: stored anew only where it differs."""
        try:
            data = base64.b64decode(str(resource.get("data") or ""))
        except binascii.Error as fault:
            raise _Undecodable from fault
        kind = str(resource.get("contentType") or "application/octet-stream")
        digest = source_mark.digest_of(kind.encode() + b"\0" + data).hex()
        content_id, before = upsert.content_of(found) if found else ("", "")
        if not content_id or before != digest:
            owner = str((resource.get("securityContext") or {}).get("reference") or "")
            content_id = self.medplum.store_content(kind, [data], owner=owner)
        return source_mark.prepare_binary(resource, self.source, content_id=content_id, digest=digest), content_id

    def _record(
        self,
        outcomes: Sequence[Outcome],
        resources: Mapping[Key, Resource],
        contents: Mapping[Key, str],
        missed: Container[Key],
    ) -> None:
        written = [each for each in outcomes if each.action != "failed"]
        self.map.record(
            ((each.key, contents.get(each.key, each.id), _digest(each)) for each in written),
            waiting=((each.key, each.incoming.unresolved) for each in written if each.incoming),
            failures=(
                Failure(each.key, each.status, each.reason or _MISSED, _text_of(resources[each.key]))
                for each in outcomes
                if each.action == "failed" or each.key in missed
            ),
        )
        with self._lock:
            self._absent.difference_update(each.key for each in written)


def _text_of(resource: Resource) -> bytes:
    return resource.raw or orjson.dumps(resource.value)


def _digest(outcome: Outcome) -> bytes | None:
    # What was kept as Medplum's users left it is looked at again next time.
    return outcome.incoming.digest if outcome.incoming and outcome.action != "kept" else None


def _counted(names: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for kind, action in names:
        row = counts.setdefault(kind, dict.fromkeys(COUNTED, 0))
        row["seen"] += 1
        row[action] += 1
    return counts
