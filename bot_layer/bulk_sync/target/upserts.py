"""Writes what the source sent to Medplum: each resource exactly once, by POST, or by PUT with If-Match.

Resources created in one batch refer to each other by ``urn:uuid``, so that none is written again only to correct a
reference. If Medplum rejects an entry, or it must be sent again, references to it from its batch are broken: those
resources are written once more.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import orjson

from bot_layer.bulk_sync.rules import references, upsert
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
    """A resource to store in Medplum, still with the source's references.

    ``target_id`` is the id that references must name, if it is not the id of the resource itself (Binary).
    """

    key: Key
    resource: Json = field(repr=False)
    target_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of one draft. ``reason`` is the server's text: for the report, never for the log."""

    key: Key
    action: Action
    id: str = ""
    version: str = ""  # in Medplum
    stored: Json = field(default_factory=dict, repr=False, compare=False)  # that version
    unresolved: frozenset[Key] = frozenset()
    target_id: str = ""  # the id that references must name
    status: int = 0
    reason: str = field(default="", repr=False)
    overwrote_edit: bool = False
    edit: LocalEdit | None = None
    rewritten: bool = False  # written a second time because a reference was broken


@dataclass
class Upsert:
    """One upsert of drafts with different keys: what is still open, and what was sent without an answer.

    ``ids`` are Medplum's ids of other resources; ``former`` the ids of what was deleted in Medplum.
    """

    lookups: Lookups
    batches: Batches
    source: str
    max_bytes: int
    conditional: bool
    policy: upsert.Policy
    open: dict[Key, Draft]
    ids: dict[Key, str]
    former: dict[Key, str]

    def __post_init__(self) -> None:
        self.found: Mapping[Key, Found] = {}
        self.sent: dict[Key, Action] = {}
        self.again: set[Key] = set()
        self.overwrote: set[Key] = set()
        self.outcomes: list[Outcome] = []

    def run(self, found: Mapping[Key, Found] | None) -> list[Outcome]:
        """One outcome for each draft. ``found``: what Medplum has of them; None if it must be looked up."""
        if self.former:
            alive = self.lookups.versions(self.former)
            self.former = {key: at for key, at in self.former.items() if at not in alive}

        def attempt() -> None:
            nonlocal found
            self._meet(self.lookups.look_up(self.open) if found is None else found)
            found = None  # each further attempt looks up again
            # A reference to a target still to be created makes a resource different.
            self._settle(self._plan([key for key in self.open if key in self.found], {}))
            for some in self._chunks():
                self._send(some)
            # Medplum may no longer have the former id; but a resource that may have been restored with it must not be
            # created twice.
            self.former = {key: at for key, at in self.former.items() if key in self.sent}
            if self.open:
                raise Unfinished

        with suppress(Unfinished):
            self.batches.repeat(attempt)
        for key in list(self.open):
            self._close(Outcome(key, "failed", reason="Medplum stayed busy."))
        return self.outcomes

    def _meet(self, found: Mapping[Key, Found]) -> None:
        """Use Medplum's current resources as the baseline."""
        self.found = found
        for key, draft in self.open.items():
            at = draft.target_id or (upsert.target_id(key, found[key]) if key in found else self.former.get(key))
            if at is None:
                self.ids.pop(key, None)
            else:
                self.ids[key] = at

    def _plan(self, keys: Sequence[Key], urns: Mapping[Key, str]) -> upsert.Plan:
        known = {**self.ids, **urns}
        incoming = [self._incoming(self.open[key], known) for key in keys]
        return upsert.plan(self.found, incoming, policy=self.policy, former=self.former)

    def _incoming(self, draft: Draft, known: Mapping[Key, str]) -> Incoming:
        if draft.target_id:
            return Incoming(draft.key, draft.resource)  # it refers only to its content in Medplum
        rewritten = references.rewrite(draft.resource, known, self.source)
        return Incoming(draft.key, rewritten.resource, unresolved=rewritten.unresolved)

    def _settle(self, plan: upsert.Plan) -> None:
        """Close what needs no write. A write whose answer was lost is detected here: Medplum has what we sent."""
        self.overwrote |= {each.incoming.key for each in plan.updates if each.overwrites_edit}
        for each, there in plan.unchanged:
            action = self.sent.get(each.key, "unchanged")
            self._close(Outcome(each.key, action, there.id, there.version, there.resource, each.unresolved))
        for each, there in plan.kept:
            edit = edit_of(each, there) if self.policy == "report" else None
            self._close(Outcome(each.key, "kept", there.id, edit=edit))

    def _chunks(self) -> Iterator[list[Key]]:
        """The open keys in batches that the server is likely to accept, in the order of the drafts."""
        chunk: list[Key] = []
        size = 0
        for key, draft in list(self.open.items()):
            more = len(orjson.dumps(draft.resource)) + _ENVELOPE
            if chunk and (len(chunk) >= _MOST or size + more > self.max_bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(key)
            size += more
        if chunk:
            yield chunk

    def _send(self, keys: Sequence[Key]) -> None:
        """Send one batch; split it in halves if the server rejects it as a whole."""
        urns = {key: f"{URN}{uuid.uuid4()}" for key in keys if key not in self.former and key not in self.found}
        named = {key: urn for key, urn in urns.items() if not self.open[key].target_id}
        plan = self._plan(keys, named)
        self._settle(plan)
        writes = [*plan.creates, *plan.updates]
        if not writes:
            return
        entries = [self._entry(each, urns.get(each.incoming.key, "")) for each in writes]
        verdicts = self.batches.send(entries, cost=CONDITIONAL_COST if self.conditional else WRITE_COST)
        if not verdicts:
            middle = len(keys) // 2
            self._send([key for key in keys[:middle] if key in self.open])
            self._send([key for key in keys[middle:] if key in self.open])
            return
        missing = {entry.key for entry, verdict in verdicts if verdict.kind != "done"} & {*named, *self.former}
        for (_, verdict), write in zip(verdicts, writes, strict=True):
            self._note(write, verdict, missing)

    def _entry(self, write: Write, urn: str) -> Entry[Key]:
        key = write.incoming.key
        # A conditional PUT would also match another source's resource.
        if self.conditional and key not in self.lookups.foreign and key not in self.former:
            return write_entry(write, urn=urn, conditional=True)
        guarded = key in self.sent and key not in self.lookups.foreign
        return write_entry(write, urn=urn if not write.id else "", guarded=guarded)

    def _note(self, write: Write, verdict: Verdict, missing: set[Key]) -> None:
        """Close an entry, or keep it open and record what may have been written."""
        key = write.incoming.key
        if verdict.kind == "refused":
            self._close(Outcome(key, "failed", status=verdict.status, reason=verdict.words))
        elif verdict.kind == "again":
            if verdict.maybe_done:
                self.sent.setdefault(key, "updated" if write.id else "created")
        elif (
            missing
            and not self.open[key].target_id
            and missing & references.targets(self.open[key].resource, self.source)
        ):
            # An entry of its batch to which it refers was not written: write it once more.
            self.sent.setdefault(key, self._action(key, verdict))
            self.again.add(key)
        else:
            action = self.sent.get(key) or self._action(key, verdict)
            outcome = Outcome(key, action, verdict.id, verdict.version, verdict.resource, write.incoming.unresolved)
            self._close(replace(outcome, status=verdict.status))
            self.ids.setdefault(key, verdict.id)

    def _action(self, key: Key, verdict: Verdict) -> Action:
        if verdict.status == 201:
            return "created"
        there = self.found.get(key)
        # A conditional PUT that changes nothing creates no version.
        return "unchanged" if there is not None and verdict.version == there.version else "updated"

    def _close(self, outcome: Outcome) -> None:
        draft = self.open.pop(outcome.key)
        self.outcomes.append(
            replace(
                outcome,
                target_id=draft.target_id or outcome.id,
                overwrote_edit=outcome.key in self.overwrote,
                rewritten=outcome.key in self.again and outcome.action != "failed",
            )
        )
