"""Writes what the source sent to Medplum: each resource exactly once, by POST, or by PUT with If-Match.

Resources created in one batch refer to each other by ``urn:uuid``, so that none is written again only to correct a
reference. If Medplum rejects an entry, or it must be sent again, references to it from its batch are broken: those
resources are written once more.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from bot_layer.bulk_sync.rules import references
from bot_layer.bulk_sync.rules import upsert as rules
from bot_layer.bulk_sync.rules.references import URN, Key
from bot_layer.bulk_sync.rules.run_state import LocalEdit
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, Write, edit_of, write_entry
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.fhir.json import Json
from bot_layer.medplum.batches import Batches, Unfinished, Verdict
from bot_layer.medplum.quota import CONDITIONAL_COST, WRITE_COST
from bot_layer.medplum.rules.batch_entries import Entry

Action = Literal["created", "updated", "unchanged", "kept", "failed"]
_MOST: Final = 200  # entries of a batch: most patients fit into one
_ENVELOPE: Final = 300  # bytes of an entry in addition to its resource


@dataclass(frozen=True, slots=True)
class Draft:
    """A resource to store in Medplum, still with the source's references, and the digest of what was sent.

    ``target_id`` is the id that references must name, if it is not the id of the resource itself (Binary).
    """

    key: Key
    resource: Json = field(repr=False)
    digest: bytes = b""
    target_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of one draft. ``reason`` is the server's text: for the report, never for the log."""

    key: Key
    action: Action
    id: str = ""
    target_id: str = ""  # the id that references must name
    status: int = 0
    reason: str = field(default="", repr=False)
    unresolved: frozenset[Key] = frozenset()
    overwrote_edit: bool = False
    edit: LocalEdit | None = None
    rewritten: bool = False  # written a second time because a reference was broken


@dataclass(frozen=True)
class Upserts:
    """Writes for one source. Thread-safe."""

    lookups: Lookups
    batches: Batches
    source: str
    max_bytes: int
    conditional: bool = False
    unique: Callable[[], str] = field(default=lambda: str(uuid.uuid4()), repr=False)

    def write(
        self,
        drafts: Sequence[Draft],
        found: Mapping[Key, Found] | None = None,
        *,
        known: Mapping[Key, str] | None = None,
        policy: rules.Policy,
        former: Mapping[Key, str] | None = None,
    ) -> list[Outcome]:
        """One outcome for each draft; no two drafts have the same key.

        ``known`` are Medplum's ids of other resources; ``former`` the ids of what was deleted in Medplum.
        """
        if former:
            alive = self.lookups.alive(former)
            former = {key: at for key, at in former.items() if at not in alive}
        work = _Work({each.key: each for each in drafts}, dict(known or {}), dict(former or {}), policy)

        def attempt() -> None:
            nonlocal found
            work.meet(self.lookups.start(work.open)() if found is None else found)
            found = None  # each further attempt looks up again
            self._settle(work)
            for some in self._chunks(work):
                self._send(work, some)
            # Medplum may no longer have the former id; but a resource that may have been restored with it must not be
            # created twice.
            work.former = {key: at for key, at in work.former.items() if key in work.sent}
            if work.open:
                raise Unfinished

        with suppress(Unfinished):
            self.batches.repeat(attempt)
        return work.ended()

    def _settle(self, work: _Work) -> None:
        """Close what needs no write. A reference to a target still to be created makes a resource different."""
        there = [key for key in work.open if key in work.found]
        work.settle(self._plan(work, there, {}))

    def _plan(self, work: _Work, keys: Sequence[Key], urns: Mapping[Key, str]) -> rules.Plan:
        known = {**work.ids, **urns}
        incoming = [work.incoming(key, known, self.source) for key in keys]
        return rules.plan(work.found, incoming, policy=work.policy, former=work.former)

    def _chunks(self, work: _Work) -> Iterator[list[Key]]:
        """The open keys in batches that the server is likely to accept, in the order of the drafts."""
        chunk: list[Key] = []
        size = 0
        for key in list(work.open):
            more = work.size(key) + _ENVELOPE
            if chunk and (len(chunk) >= _MOST or size + more > self.max_bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(key)
            size += more
        if chunk:
            yield chunk

    def _send(self, work: _Work, keys: Sequence[Key]) -> None:
        """Send one batch; split it in halves if the server rejects it as a whole."""
        urns = {key: f"{URN}{self.unique()}" for key in keys if self._creates(work, key)}
        named = {key: urn for key, urn in urns.items() if not work.open[key].target_id}
        plan = self._plan(work, keys, named)
        work.settle(plan)
        writes = [*plan.creates, *plan.updates]
        entries = [self._entry(work, each, urns.get(each.incoming.key, "")) for each in writes]
        if not entries:
            return
        cost = CONDITIONAL_COST if self.conditional else WRITE_COST
        verdicts = self.batches.send(entries, cost=cost)
        if not verdicts:
            middle = len(keys) // 2
            self._send(work, [key for key in keys[:middle] if key in work.open])
            self._send(work, [key for key in keys[middle:] if key in work.open])
            return
        missing = {entry.key for entry, verdict in verdicts if verdict.kind != "done"}
        for (_, verdict), write in zip(verdicts, writes, strict=True):
            key = write.incoming.key
            if missing and verdict.kind == "done" and missing & work.targets(key, self.source) & {*named, *work.former}:
                work.reopen(key, verdict)
            else:
                work.note(write, verdict)

    def _creates(self, work: _Work, key: Key) -> bool:
        return key not in work.former and key not in work.found

    def _entry(self, work: _Work, write: Write, urn: str) -> Entry[Key]:
        key = write.incoming.key
        # A conditional PUT would also match another source's resource.
        if self.conditional and key not in self.lookups.foreign and key not in work.former:
            return write_entry(write, urn=urn, conditional=True)
        guarded = key in work.sent and key not in self.lookups.foreign
        return write_entry(write, urn=urn if not write.id else "", guarded=guarded)


@dataclass
class _Work:
    """The state of one upsert: what is still open, and what was sent without an answer."""

    open: dict[Key, Draft]
    ids: dict[Key, str]
    former: dict[Key, str]
    policy: rules.Policy
    found: Mapping[Key, Found] = field(default_factory=dict)
    sent: dict[Key, Action] = field(default_factory=dict)
    again: set[Key] = field(default_factory=set)
    overwrote: set[Key] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)
    sizes: dict[Key, int] = field(default_factory=dict)

    def meet(self, found: Mapping[Key, Found]) -> None:
        """Use Medplum's current resources as the baseline."""
        self.found = found
        for key in self.open:
            if key in found:
                self.ids[key] = rules.target_id(key, found[key])
            elif key in self.former:
                self.ids[key] = self.former[key]
            else:
                self.ids.pop(key, None)
        for key, draft in self.open.items():
            if draft.target_id:
                self.ids[key] = draft.target_id

    def incoming(self, key: Key, known: Mapping[Key, str], source: str) -> Incoming:
        """The draft as it is to be written now."""
        draft = self.open[key]
        if draft.target_id:
            return Incoming(key, draft.resource, draft.digest)  # it refers only to its content in Medplum
        rewritten = references.rewrite(draft.resource, known, source)
        return Incoming(key, rewritten.resource, draft.digest, rewritten.unresolved)

    def targets(self, key: Key, source: str) -> frozenset[Key]:
        """The source resources that the draft refers to."""
        draft = self.open[key]
        return frozenset() if draft.target_id else references.targets(draft.resource, source)

    def size(self, key: Key) -> int:
        """The approximate size of the resource in bytes."""
        if key not in self.sizes:
            self.sizes[key] = len(orjson.dumps(self.open[key].resource))
        return self.sizes[key]

    def settle(self, plan: rules.Plan) -> None:
        """Close what needs no write. A write whose answer was lost is detected here: Medplum has what we sent."""
        self.overwrote |= {each.incoming.key for each in plan.updates if each.overwrites_edit}
        for each, there in plan.unchanged:
            self._close(each, self.sent.get(each.key, "unchanged"), there.id)
        for each, there in plan.kept:
            edit = edit_of(each, there) if self.policy == "report" else None
            self._close(each, "kept", there.id, edit=edit)

    def note(self, write: Write, verdict: Verdict) -> None:
        """Close an entry, or keep it open and record what may have been written."""
        each = write.incoming
        if verdict.kind == "done":
            self._close(each, self.sent.get(each.key) or self._action(each.key, verdict), verdict.id, verdict.status)
            self.ids.setdefault(each.key, verdict.id)
        elif verdict.kind == "refused":
            self._close(each, "failed", status=verdict.status, reason=verdict.words)
        elif verdict.maybe_done:
            self.sent.setdefault(each.key, "updated" if write.id else "created")

    def reopen(self, key: Key, verdict: Verdict) -> None:
        """Write it once more: an entry of its batch to which it refers was not written."""
        self.sent.setdefault(key, self._action(key, verdict))
        self.again.add(key)

    def _action(self, key: Key, verdict: Verdict) -> Action:
        if verdict.status == 201:
            return "created"
        there = self.found.get(key)
        # A conditional PUT that changes nothing creates no version.
        return "unchanged" if there is not None and verdict.version == there.version else "updated"

    def ended(self) -> list[Outcome]:
        """Every outcome; open entries have failed."""
        for key in list(self.open):
            self._close(Incoming(key, {}), "failed", reason="Medplum stayed busy.")
        return self.outcomes

    def _close(
        self,
        each: Incoming,
        action: Action,
        resource_id: str = "",
        status: int = 0,
        *,
        reason: str = "",
        edit: LocalEdit | None = None,
    ) -> None:
        draft = self.open.pop(each.key)
        failed = action == "failed"
        self.outcomes.append(
            Outcome(
                each.key,
                action,
                resource_id,
                draft.target_id or resource_id,
                status,
                reason,
                frozenset() if failed else each.unresolved,
                overwrote_edit=each.key in self.overwrote,
                edit=edit,
                rewritten=each.key in self.again and not failed,
            )
        )
