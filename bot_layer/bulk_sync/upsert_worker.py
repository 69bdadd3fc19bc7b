"""Writes a batch of the source's resources to Medplum: skip unchanged ones, look up, write, record."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

import orjson

from bot_layer.bulk_sync.attachments import Attachments, Carried
from bot_layer.bulk_sync.compare import Comparison, digest_of, text_of
from bot_layer.bulk_sync.medplum_ids import MedplumIds
from bot_layer.bulk_sync.progress import Loaded, counted
from bot_layer.bulk_sync.rules import provenance, references, upsert
from bot_layer.bulk_sync.rules.ndjson import Resource, unusable
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Run
from bot_layer.bulk_sync.rules.source_identity import stored_as
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.session import Session
from bot_layer.bulk_sync.state.id_map import Failure, Known
from bot_layer.bulk_sync.target.upserts import Draft, Outcome
from bot_layer.fhir.json import Json

_CARRIERS: Final = 4  # contents that are copied in parallel
_MISSED: Final = "its content could not be fetched for now: it points to the source"


class _Undecodable(Exception):
    """The data of a Binary is not base64."""


@dataclass(frozen=True)
class _Unit:
    """The resources of a unit, and what is known about them and the targets of their references."""

    resources: Mapping[Key, Resource]
    digests: Mapping[Key, bytes]
    found: Mapping[Key, Found]
    known: dict[Key, str]
    carrying: frozenset[Key]  # whose linked content is stored in Medplum
    carried: dict[Key, Carried] = field(default_factory=dict)

    def passes(self) -> list[list[Key]]:
        """The keys in passes: content after the patient it belongs to, and before the resources that link to it."""
        sorted_: tuple[list[Key], list[Key], list[Key]] = ([], [], [])
        for key, each in self.resources.items():
            later = key in self.carrying and _owner_in(each.value) is not None
            sorted_[1 if key.type == "Binary" else 2 if later else 0].append(key)
        return [some for some in sorted_ if some]


class UpsertWorker:
    """Writes one run's resources to Medplum. Thread-safe."""

    def __init__(self, session: Session, run: Run) -> None:
        self.session, self.map, self.source = session, session.map, session.settings.source
        self.compare_all = run.full  # also compare with Medplum what the source sent before
        self.policy: upsert.Policy | None = "source" if run.overwrite else None  # instead of the setting's
        self.ids, self.comparison = MedplumIds(session), Comparison(session)
        self.attachments = Attachments(session)
        self._carriers = ThreadPoolExecutor(_CARRIERS, thread_name_prefix="pf-carry")

    def unchanged(self, resources: Iterable[Resource]) -> set[Key]:
        """The resources that the source sent before with the same bytes, and that Medplum accepted."""
        if self.compare_all:
            return set()
        digests = {each.key: digest_of(each) for each in resources if each.key is not None}
        return {key for key, row in self.map.rows(digests).items() if row.digest == digests[key]}

    def load(self, resources: Sequence[Resource]) -> Loaded:
        """Write these resources and return the result. No two of them may have the same type and id."""
        valid = {each.key: each for each in resources if each.key is not None and not unusable(each)}
        refused = [(each.type, "failed") for each in resources if each.key not in valid]
        digests = {key: digest_of(each) for key, each in valid.items()}
        rows = self.map.rows(valid)
        skipped = {key for key, row in rows.items() if row.digest == digests[key] and not self.compare_all}
        loaded = Loaded(counted([*refused, *((key.type, "unchanged") for key in skipped)]))
        left = {key: each for key, each in valid.items() if key not in skipped}
        ids = {key: row.id for key, row in rows.items()}
        return loaded.plus(self._load(self.ids.with_targets(left), digests, ids)) if left else loaded

    def _load(self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], ids: Mapping[Key, str]) -> Loaded:
        """Write the resources; if one can't be processed (for example, it is nested too deeply), only that one fails.

        ``ids`` are Medplum's ids of those in the map.
        """
        try:
            return self._write(resources, digests, ids)
        except (RecursionError, orjson.JSONEncodeError, _Undecodable) as fault:
            if len(resources) == 1:
                undecodable = isinstance(fault, _Undecodable)
                return self._failed(resources, "its data is not base64" if undecodable else "nested too deeply")
        total = Loaded()
        for key, each in resources.items():
            total = total.plus(self._load({key: each}, digests, ids))
        return total

    def _failed(self, resources: Mapping[Key, Resource], reason: str) -> Loaded:
        """Record resources that cannot be written as failures."""
        self.map.record((), failures=[Failure(key, 0, reason, text_of(each)) for key, each in resources.items()])
        return Loaded(counted((key.type, "failed") for key in resources))

    def _write(self, resources: Mapping[Key, Resource], digests: Mapping[Key, bytes], ids: Mapping[Key, str]) -> Loaded:
        medplum = self.session.medplum
        # Keys in the map may have been written in this run: look them up even if Medplum had none at the start.
        found = medplum.look_up([key for key in resources if key in ids or self.ids.is_open(key.type)])
        carrying = frozenset(key for key, each in resources.items() if self.comparison.carries(each))
        targets = set[Key]().union(*[references.targets(each.value, self.source) for each in resources.values()])
        targets |= set[Key]().union(*[self.attachments.targets(resources[key].value) for key in carrying])
        known = self.ids.known(targets - resources.keys())
        known |= {key: ids[key] for key in targets & resources.keys() & ids.keys()}
        barred = medplum.lookups.unknown | medplum.lookups.unreadable
        unsupported = {key: each for key, each in resources.items() if key.type in barred}
        loaded = Loaded()
        if unsupported:
            loaded = self._failed(unsupported, "Medplum does not have this type, or this login may not use it")
            resources = {key: each for key, each in resources.items() if key not in unsupported}
        unit = _Unit(resources, digests, found, known, carrying)
        for some in unit.passes():
            loaded = loaded.plus(self._upsert(unit, some))
        uncopied = Counter(f"{key.type}: {why}" for key, each in unit.carried.items() for why in each.uncopied)
        return loaded.plus(Loaded(uncopied=uncopied))

    def _upsert(self, unit: _Unit, keys: Sequence[Key]) -> Loaded:
        drafts = self._drafts(unit, keys)
        outcomes: list[Outcome] = []
        try:
            former = self.map.former(key for key in keys if key not in unit.found)
            outcomes = self.session.medplum.upsert(
                drafts, unit.found, known=unit.known, policy=self.policy, former=former
            )
        finally:
            written = [each for each in outcomes if each.action != "failed"]
            done = {each.key for each in written}
            self.ids.written(done, unsure=set(keys) - done)
        unit.known.update({each.key: each.target_id for each in written})
        self.map.record(
            ((each.key, self._known(unit, each)) for each in written),
            waiting=((each.key, each.unresolved) for each in written if each.action != "kept"),
            failures=(
                Failure(each.key, each.status, each.reason or _MISSED, text_of(unit.resources[each.key]))
                for each in outcomes
                if each.action == "failed" or (each.key in unit.carried and unit.carried[each.key].missed)
            ),
        )
        return Loaded(
            counted((each.key.type, "unchanged" if each.action == "kept" else each.action) for each in outcomes),
            overwritten=sum(each.overwrote_edit for each in outcomes),
            kept=sum(each.action == "kept" for each in outcomes),
            rewritten=sum(each.rewritten for each in outcomes),
            edits=tuple(each.edit for each in outcomes if each.edit is not None),
            settled=frozenset(f"{stored_as(each.key.type)}/{each.id}" for each in written if each.action != "kept"),
        )

    def _known(self, unit: _Unit, outcome: Outcome) -> Known:
        if outcome.action == "kept":
            return Known(outcome.target_id)  # a resource with local edits is compared again next time
        # Without the targets that were not in Medplum yet when it was written.
        known = unit.known
        if outcome.unresolved:
            known = {key: at for key, at in known.items() if key not in outcome.unresolved}
        stored = Found(outcome.id, outcome.version, outcome.stored)
        compared = self.comparison.written(unit.resources[outcome.key], known, stored)
        return Known(outcome.target_id, unit.digests[outcome.key], compared)

    # -- Resources as they are to be written, still with the source's references

    def _drafts(self, unit: _Unit, keys: Sequence[Key]) -> list[Draft]:
        """The drafts of these resources. Several contents are copied in parallel."""
        if not any(key.type == "Binary" or key in unit.carrying for key in keys):
            return [self._draft(unit, key) for key in keys]
        drafts = [self._carriers.submit(self._draft, unit, key) for key in keys]
        wait(drafts)  # all end before the first failure is raised
        return [each.result() for each in drafts]

    def _draft(self, unit: _Unit, key: Key) -> Draft:
        value, there = unit.resources[key].value, unit.found.get(key)
        if key.type == "Binary":
            rewritten = references.rewrite(value, unit.known, self.source).resource
            return self._stored(key, rewritten, there)
        prepared = provenance.prepare(value, self.source)
        if key in unit.carrying:
            owner = self._owner(unit, value)
            unit.carried[key] = self.attachments.carry(prepared, there, owner=owner, known=unit.known)
            prepared = unit.carried[key].resource
        return Draft(key, prepared)

    def _owner(self, unit: _Unit, value: Json) -> str:
        """The Patient in Medplum that determines who may read a document's content."""
        reference = _owner_in(value)
        key = references.read_reference(reference, self.source) if isinstance(reference, str) else None
        return f"Patient/{unit.known[key]}" if key is not None and key.type == "Patient" and key in unit.known else ""

    def _stored(self, key: Key, resource: Json, found: Found | None) -> Draft:
        """The resource that represents a Binary, with its content, which is stored again only if it differs."""
        try:
            data = base64.b64decode(str(resource.get("data") or ""))
        except ValueError as fault:  # also for letters that are not ASCII
            raise _Undecodable from fault
        kind = str(resource.get("contentType") or "application/octet-stream")
        content_digest = provenance.digest_of(kind.encode() + b"\0" + data).hex()
        content_id, before = upsert.content_of(found) if found else ("", "")
        if not content_id or before != content_digest:
            owner = str((resource.get("securityContext") or {}).get("reference") or "")
            content_id = self.session.medplum.store_content(kind, [data], owner=owner)
        basic = provenance.prepare_binary(resource, self.source, content_id=content_id, digest=content_digest)
        return Draft(key, basic, content_id)


def _owner_in(value: Json) -> object:
    """The reference to the patient of a resource, or None."""
    for name in ("subject", "patient"):
        field_ = value.get(name)
        if isinstance(field_, dict) and "reference" in field_:
            return field_["reference"]
    return None
