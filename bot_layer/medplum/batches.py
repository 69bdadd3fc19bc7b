"""Batches into Medplum, and what became of each entry.

The rules for each answer were measured on a Medplum server 5.0.10: a batch is HTTP 200 although entries were refused, a
single entries report a conflict (409) and an ended quota (429), and an answer may be lost after the write was done. So
each entry is read, and before anything is repeated its identifier is looked up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import httpx

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json, read_object
from bot_layer.medplum.client import FHIR_JSON, Medplum
from bot_layer.medplum.gate import Gate
from bot_layer.medplum.quota import WRITE_COST, seconds_until_filled
from bot_layer.medplum.rules import batch_entries
from bot_layer.medplum.rules.batch_entries import Entry, Key
from bot_layer.medplum.wire import SERVICE


class Unfinished(TransientError):
    """Medplum has not accepted everything yet."""

    def __init__(self) -> None:
        super().__init__("Medplum stayed busy.", service=SERVICE, method="POST", path="batch")


@dataclass(frozen=True)
class Verdict:
    """The result of one entry. ``maybe_done``: it is unknown whether it was carried out."""

    kind: Literal["done", "again", "refused"]
    status: int = 0
    id: str = ""
    maybe_done: bool = False
    words: str = field(default="", repr=False)
    version: str = ""
    resource: Json = field(default_factory=dict, repr=False, compare=False)  # as Medplum stored it


@dataclass
class Batches:
    """Sends batches through a gate; ``may_write`` is called before each. Safe to share between threads."""

    server: Medplum
    gate: Gate
    may_write: Callable[[], None] = field(default=lambda: None, repr=False)

    def send(self, batch: list[Entry[Key]], *, cost: int = WRITE_COST) -> list[tuple[Entry[Key], Verdict]]:
        """The verdict on each entry of a batch, in their order. Nothing is repeated.

        An empty answer: the server refused the batch as a whole, because it is too large or one entry spoils it. Then
        the caller sends it in halves, so that entries that refer to each other can be built again.
        """
        with self.gate.turn(len(batch)) as turn:
            self.may_write()
            verdicts, asked = self._sent(batch, cost * len(batch))
            turn.is_slower = any(verdict.kind == "again" for _, verdict in verdicts)
        if any(verdict.status == 429 for _, verdict in verdicts):
            self.server.wait(max(1.0 if asked is None else asked, 0.05))
        return verdicts

    def _sent(self, batch: list[Entry[Key]], cost: int) -> tuple[list[tuple[Entry[Key], Verdict]], float | None]:
        """The verdicts, and the seconds that Medplum asks to wait if its quota has ended."""
        body, headers = batch_entries.bundle(batch), {"Content-Type": FHIR_JSON}
        try:
            reply = self.server.send("POST", "fhir/R4", template="batch", body=body, headers=headers, cost=cost)
        except TransientError as fault:
            verdict = Verdict("again", fault.status or 0, maybe_done=fault.maybe_done)
            return [(each, verdict) for each in batch], fault.retry_after
        return _read(reply, batch), seconds_until_filled(reply.headers, now=time.time())

    def repeat(self, attempt: Callable[[], None]) -> None:
        """Call it until it raises Unfinished no more, or the policy allows no further attempt."""
        self.server.repeat(attempt, when=lambda fault: isinstance(fault, Unfinished))

    def send_all(self, batch: list[Entry[Key]], *, cost: int = WRITE_COST) -> list[tuple[Entry[Key], Verdict]]:
        """The same for entries that do not refer to each other: a batch that is refused is sent in halves."""
        verdicts = self.send(batch, cost=cost)
        if verdicts or not batch:
            return verdicts
        middle = len(batch) // 2
        return self.send_all(batch[:middle], cost=cost) + self.send_all(batch[middle:], cost=cost)


def _read(reply: httpx.Response, batch: list[Entry[Key]]) -> list[tuple[Entry[Key], Verdict]]:
    """The verdict on each entry, or nothing where the whole was refused and can be halved."""
    document = read_object(reply.content)
    if reply.status_code == 409:
        return [(each, Verdict("again", 409, maybe_done=True)) for each in batch]
    if reply.status_code != 200:
        words = _words(document)
        return [] if len(batch) > 1 else [(each, Verdict("refused", reply.status_code, words=words)) for each in batch]
    entries = document.get("entry")
    if not isinstance(entries, list) or len(entries) != len(batch):
        return [(each, Verdict("again", maybe_done=True)) for each in batch]
    return [(each, _verdict(each, answer)) for each, answer in zip(batch, entries, strict=True)]


def _verdict(entry: Entry[Key], answer: Json) -> Verdict:
    response, resource = answer.get("response") or {}, answer.get("resource") or {}
    text = str(response.get("status") or "")[:3]
    status = int(text) if text.isdecimal() else 0
    if status in (200, 201, 204):
        if entry.guarded and status == 200:
            # If-None-Exist found one: the next look-up shows whether it is what we want to write.
            return Verdict("again", status, maybe_done=True)
        place = str(response.get("location") or "").partition("/")[2].partition("/")[0]
        version = str((resource.get("meta") or {}).get("versionId") or "")
        return Verdict("done", status, str(resource.get("id") or place), version=version, resource=resource)
    if status in (409, 412, 429) or (status in (404, 410) and not entry.creates):
        # Another client was faster, or deleted it: read again, then decide again. Nothing was written.
        return Verdict("again", status)
    if status >= 500 or not status:
        return Verdict("again", status, maybe_done=True)
    return Verdict("refused", status, words=_words(response.get("outcome") or {}))


def _words(outcome: Json) -> str:
    """The server's own words on a refusal, and the elements that it names."""
    words = []
    for issue in outcome.get("issue") or []:
        places = ", ".join(issue.get("expression") or [])
        text = str((issue.get("details") or {}).get("text") or issue.get("diagnostics") or issue.get("code") or "")
        words.append(f"{text} ({places})" if places else text)
    return "; ".join(words)[:500]
