"""Batches into Medplum, and what became of each entry.

The rules for each answer were measured on a Medplum server 5.0.10: a batch is HTTP 200 although entries were refused, a
conflict (409) and an ended quota (429) stand in single entries, and an answer may be lost after the write was done. So
each entry is read, and before anything is repeated its identifier is looked up again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.http import pace
from bot_layer.http.answer import Answer, read_object
from bot_layer.medplum.gate import Gate
from bot_layer.medplum.requests import FHIR_JSON, MedplumRequests
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry, Key


@dataclass(frozen=True)
class Verdict:
    """The result of one entry. ``maybe_done``: it is unknown whether it was carried out."""

    kind: Literal["done", "again", "refused"]
    status: int = 0
    id: str = ""
    maybe_done: bool = False
    words: str = field(default="", repr=False)
    version: str = ""


@dataclass(frozen=True)
class Batches:
    """Sends batches through a gate. Safe to share between threads."""

    requests: MedplumRequests
    gate: Gate

    def send(self, batch: list[Entry[Key]], *, cost: int = pace.WRITE_COST) -> list[tuple[Entry[Key], Verdict]]:
        """The verdict on each entry of a batch, in their order. Nothing is repeated.

        An empty answer: the server refused the batch as a whole, because it is too large or one entry spoils it. Then
        the caller sends it in halves, so that entries that refer to each other can be built again.
        """
        body = batch_entries.bundle(batch)
        with self.gate.turn(len(batch)) as turn:
            self.requests.may_write()
            try:
                reply = self.requests.send(
                    "POST",
                    "fhir/R4",
                    template="batch",
                    body=body,
                    headers={"Content-Type": FHIR_JSON},
                    cost=cost * len(batch),
                )
            except TransientError as fault:
                turn.pushed_back()
                return [(each, Verdict("again", maybe_done=fault.maybe_done)) for each in batch]
            verdicts = _read(reply, batch)
            if any(verdict.kind == "again" for _, verdict in verdicts):
                turn.pushed_back()
        limited = reply.status == 429 or any(verdict.status == 429 for _, verdict in verdicts)
        if limited:
            self.requests.wait_for_quota(reply)
        return verdicts

    def send_all(self, batch: list[Entry[Key]], *, cost: int = pace.WRITE_COST) -> list[tuple[Entry[Key], Verdict]]:
        """The same for entries that do not refer to each other: a batch that is refused is sent in halves."""
        verdicts = self.send(batch, cost=cost)
        if verdicts or not batch:
            return verdicts
        middle = len(batch) // 2
        return self.send_all(batch[:middle], cost=cost) + self.send_all(batch[middle:], cost=cost)


def _read(reply: Answer, batch: list[Entry[Key]]) -> list[tuple[Entry[Key], Verdict]]:
    """The verdict on each entry, or nothing where the whole was refused and can be halved."""
    if reply.status == 429:
        return [(each, Verdict("again", 429)) for each in batch]
    if reply.status >= 500 or reply.status in (408, 409, 425):
        return [(each, Verdict("again", reply.status, maybe_done=True)) for each in batch]
    entries = read_object(reply.body).get("entry")
    if reply.status != 200:
        words = _words(read_object(reply.body))
        return [] if len(batch) > 1 else [(each, Verdict("refused", reply.status, words=words)) for each in batch]
    if not isinstance(entries, list) or len(entries) != len(batch):
        return [(each, Verdict("again", maybe_done=True)) for each in batch]
    return [(each, _verdict(each, answer)) for each, answer in zip(batch, entries, strict=True)]


def _verdict(entry: Entry[Key], answer: Json) -> Verdict:
    response = answer.get("response") or {}
    text = str(response.get("status") or "")[:3]
    status = int(text) if text.isdecimal() else 0
    resource_id = str((answer.get("resource") or {}).get("id") or "")
    if not resource_id:
        resource_id = str(response.get("location") or "").partition("/")[2].partition("/")[0]
    if status in (200, 201, 204):
        if entry.guarded and status == 200:
            # If-None-Exist found one: the next look-up shows whether it is what we want to write.
            return Verdict("again", status, maybe_done=True)
        version = str(((answer.get("resource") or {}).get("meta") or {}).get("versionId") or "")
        return Verdict("done", status, resource_id, version=version)
    if status in (409, 412, 429) or (status in (404, 410) and not entry.creates):
        # Another client was faster, or deleted it: read again, then decide again. Nothing was written.
        return Verdict("again", status)
    if status >= 500 or not status:
        return Verdict("again", status, maybe_done=True)
    return Verdict("refused", status, words=_words(response.get("outcome") or {}))


def _words(outcome: Json) -> str:
    """The server's own words on a refusal, and where it saw the fault."""
    said = []
    for issue in outcome.get("issue") or []:
        where = ", ".join(issue.get("expression") or [])
        text = str((issue.get("details") or {}).get("text") or issue.get("diagnostics") or issue.get("code") or "")
        said.append(f"{text} ({where})" if where else text)
    return "; ".join(said)[:500]
