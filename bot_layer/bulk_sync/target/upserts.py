"""What the source sent, into Medplum: created by POST, updated by PUT with If-Match, never twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import upsert as rules
from bot_layer.bulk_sync.rules.local_edits import LocalEdit, edit_of
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found, Incoming, Write
from bot_layer.bulk_sync.target.lookups import Lookups
from bot_layer.fhir.json import Json
from bot_layer.http import pace
from bot_layer.medplum.batches import Batches, Verdict
from bot_layer.medplum.requests import ROUNDS
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry

Action = Literal["created", "updated", "unchanged", "kept", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one incoming resource. ``reason`` is the server's words: for the report, never for the log."""

    key: Key
    action: Action
    id: str = ""
    status: int = 0
    reason: str = field(default="", repr=False)
    incoming: Incoming | None = field(default=None, repr=False, compare=False)
    overwrote_edit: bool = False
    edit: LocalEdit | None = None


@dataclass(frozen=True)
class Upserts:
    """Writes for one source. Safe to share between threads."""

    lookups: Lookups
    batches: Batches
    source: str
    max_bytes: int

    def by_look_up(
        self,
        incoming: Sequence[Incoming],
        found: Mapping[Key, Found] | None,
        *,
        policy: rules.Policy,
        former: Mapping[Key, str] | None = None,
    ) -> list[Outcome]:
        """Look up, then write only what differs; an answer that was lost is settled by looking up again.

        ``policy`` says what becomes of edits that others made in Medplum; ``former`` are the ids of what was deleted.
        """
        if former:
            alive = self.lookups.alive(former)
            former = {key: at for key, at in former.items() if at not in alive}
        work = _Work({each.key: each for each in incoming}, listing=policy == "report")
        for attempt in range(ROUNDS):
            if not work.open:
                break
            if found is None or attempt:
                found = self.lookups.start(work.open)()
            plan = rules.plan(found, work.open.values(), source=self.source, policy=policy, former=former)
            work.settle(plan)
            entries = [
                batch_entries.entry(each, orjson.dumps, guarded=each.incoming.key in work.sent)
                for each in (*plan.creates, *plan.updates)
            ]
            self._write(work, entries, pace.WRITE_COST, attempt)
            # Medplum may know the id no more; but what may have come back under it must not come twice.
            former = {key: at for key, at in (former or {}).items() if key in work.sent}
        return work.ended()

    def conditionally(self, incoming: Sequence[Incoming], found: Mapping[Key, Found] | None = None) -> list[Outcome]:
        """The same with batches of conditional PUTs, as the integration's description prints it.

        They see nothing of what is there: what others added to it, or that it is another source's, ``found`` tells.
        """
        work, there = _Work({each.key: each for each in incoming}), found or {}
        foreign = (
            each
            for each in incoming
            if each.key in there and not source_mark.brought_by(there[each.key].resource, each.key, self.source)
        )
        work.settle(rules.Plan(foreign=tuple(foreign)))
        for attempt in range(ROUNDS):
            if not work.open:
                break
            writes = [Write(each, _merged(each, there.get(each.key))) for each in work.open.values()]
            entries = [batch_entries.conditional_entry(each, orjson.dumps) for each in writes]
            self._write(work, entries, pace.CONDITIONAL_COST, attempt)
        return work.ended()

    def _write(self, work: _Work, entries: Sequence[Entry], cost: int, attempt: int) -> None:
        for batch in batch_entries.batches(entries, max_bytes=self.max_bytes):
            for entry, verdict in self.batches.send(batch, cost=cost):
                work.note(entry, verdict)
        if work.open and attempt:
            self.batches.requests.push_back(attempt)


def _merged(incoming: Incoming, there: Found | None) -> Json:
    return rules.merged(there, incoming) if there else source_mark.tagged(incoming.resource, incoming.unresolved)


@dataclass
class _Work:
    """Where one upsert stands: what is still open, and what was sent without an answer."""

    open: dict[Key, Incoming]
    sent: dict[Key, Action] = field(default_factory=dict)
    listing: bool = False
    overwrote: set[Key] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)

    def settle(self, plan: rules.Plan) -> None:
        """Close what needs no write. An answer that was lost after the write shows here: what we sent is there."""
        self.overwrote |= {each.incoming.key for each in plan.updates if each.overwrites_edit}
        for each, there in plan.unchanged:
            self._close(each.key, self.sent.get(each.key, "unchanged"), there.id)
        for each, there in plan.kept:
            edit = edit_of(each, there) if self.listing else None
            self._close(each.key, "kept", there.id, edit=edit)
        for stranger in plan.foreign:
            self._close(stranger.key, "failed", reason="This identifier belongs to a resource of another source.")

    def note(self, entry: Entry, verdict: Verdict) -> None:
        """Close an entry, or keep it open and remember what may have been done."""
        if verdict.kind == "done":
            action: Action = "created" if verdict.status == 201 else "updated"
            self._close(entry.key, self.sent.get(entry.key, action), verdict.id, status=verdict.status)
        elif verdict.kind == "refused":
            self._close(entry.key, "failed", status=verdict.status, reason=verdict.words)
        elif verdict.maybe_done:
            update = entry.write is not None and entry.write.id
            self.sent.setdefault(entry.key, "updated" if update else "created")

    def ended(self) -> list[Outcome]:
        """Every outcome; what is still open has failed."""
        for key in list(self.open):
            self._close(key, "failed", reason="Medplum stayed busy.")
        return self.outcomes

    def _close(
        self,
        key: Key,
        action: Action,
        resource_id: str = "",
        *,
        status: int = 0,
        reason: str = "",
        edit: LocalEdit | None = None,
    ) -> None:
        incoming, overwrote = self.open.pop(key), key in self.overwrote
        self.outcomes.append(Outcome(key, action, resource_id, status, reason, incoming, overwrote, edit))
