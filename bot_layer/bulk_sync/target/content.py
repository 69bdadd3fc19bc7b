"""Content into Medplum, as Binary: in a stream, never whole in memory, and never where nothing names it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from bot_layer.bulk_sync.rules.content_reserve import reserve_entries
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.errors import PermanentError, TransientError
from bot_layer.http import pace
from bot_layer.medplum.batches import Batches
from bot_layer.medplum.login import SERVICE
from bot_layer.medplum.requests import ROUNDS, MedplumRequests
from bot_layer.medplum.rules.batch_entries import Entry

_MOST_AT_ONCE: Final = 32
_TRIES: Final = 8


@dataclass
class Contents:
    """Stores what documents point to, in room that was made for it before. Safe to share between threads."""

    requests: MedplumRequests
    batches: Batches
    source: str
    reserved: bool = False  # True once room was asked for: what is left of it must be given back

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[str] = []
        self._next = 1
        self._run = ""

    def store(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> str:
        """The id of a Binary that holds these bytes; where answers are lost, no other one does."""
        for _ in range(ROUNDS):
            content_id = self._room()
            if self.replace(content_id, content_type, pieces, owner=owner):
                return content_id
        raise _fault(404)

    def replace(self, content_id: str, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> bool:
        """Write these bytes into a Binary, as often as needed; False where there is none of this id."""
        headers = {"Content-Type": content_type} | ({"X-Security-Context": owner} if owner else {})
        for attempt in range(_TRIES):
            self.requests.may_write()
            try:
                reply = self.requests.send(
                    "PUT",
                    f"fhir/R4/Binary/{content_id}",
                    template="Binary/{id}",
                    body=iter(pieces),
                    headers=headers,
                    cost=pace.WRITE_COST,
                )
            except TransientError:
                if attempt == _TRIES - 1 or pieces is iter(pieces):
                    raise
                self.requests.push_back(attempt)
                continue
            if reply.status == 200:
                return True
            if reply.status in (404, 410):
                return False
            if not _is_busy(reply.status) or attempt == _TRIES - 1 or pieces is iter(pieces):
                raise _fault(reply.status)
            if reply.status == 429:
                self.requests.wait_for_quota(reply)
            else:
                self.requests.push_back(attempt)
        raise AssertionError("the last try returns or raises")

    def serve(self, run: str) -> None:
        """Room is a run's own: what an earlier one did not use was given back, maybe by another process."""
        if run != self._run:
            self.forget_room()
            self._run = run

    def forget_room(self) -> None:
        """Nothing that was reserved is there any more."""
        with self._lock:
            self._free, self._next, self.reserved = [], 1, False

    def _room(self) -> str:
        with self._lock:
            if not self._free:
                self._free = self._made(self._next)
                # Twice as much each time: few requests for many documents, and little to give back after few.
                self._next = min(2 * self._next, _MOST_AT_ONCE)
            return self._free.pop()

    def _made(self, number: int) -> list[str]:
        """The ids of empty Binaries. A try whose answer is lost is left to whoever clears up; its Basic names them."""
        for attempt in range(ROUNDS):
            self.reserved = True
            urns = [f"urn:uuid:{uuid.uuid4()}" for _ in range(number)]
            made = reserve_entries(uuid.uuid4().hex, urns, self.source)
            entries = [Entry(Key("", str(place)), orjson.dumps(each)) for place, each in enumerate(made)]
            basic, *binaries = [verdict for _, verdict in self.batches.send(entries, divisible=False)]
            ids = [each.id for each in binaries if each.kind == "done"]
            if basic.kind == "done" and ids:
                return ids
            if ids:
                self._drop(ids)
            for each in (basic, *binaries):
                if each.kind == "refused":
                    raise _fault(each.status)
            self.requests.push_back(attempt)
        raise _fault(429)

    def _drop(self, ids: list[str]) -> None:
        """Delete what was made although its Basic was not."""
        requests = ({"request": {"method": "DELETE", "url": f"Binary/{each}"}} for each in ids)
        self.batches.send([Entry(Key("Binary", "drop"), orjson.dumps(each)) for each in requests])


def _is_busy(status: int) -> bool:
    return status in (409, 429) or status >= 500


def _fault(status: int) -> PermanentError | TransientError:
    kind = TransientError if _is_busy(status) else PermanentError
    return kind(
        f"Medplum answered {status} for an attachment.",
        service=SERVICE,
        status=status,
        method="PUT",
        path="Binary/{id}",
    )
