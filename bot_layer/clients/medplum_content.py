"""Content into Medplum, as Binary: in a stream, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bot_layer.clients.medplum_login import SERVICE, read_object
from bot_layer.clients.medplum_requests import MedplumRequests
from bot_layer.core import pace
from bot_layer.errors import PermanentError, TransientError


@dataclass(frozen=True)
class Contents:
    """Stores what documents point to. Safe to share between threads."""

    requests: MedplumRequests

    def store(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "", tries: int = 8) -> str:
        """The id of a new Binary that holds these bytes. A lost answer may leave one behind that nothing names."""
        for attempt in range(tries):
            try:
                return self._store(content_type, iter(pieces), owner)
            except TransientError:
                if attempt == tries - 1 or pieces is iter(pieces):
                    raise
                self.requests.push_back(attempt)
        raise AssertionError("the last try returns or raises")

    def _store(self, content_type: str, chunks: Iterator[bytes], owner: str) -> str:
        headers = {"Content-Type": content_type} | ({"X-Security-Context": owner} if owner else {})
        self.requests.may_write()
        reply = self.requests.send(
            "POST", "fhir/R4/Binary", template="Binary", body=chunks, headers=headers, cost=pace.WRITE_COST
        )
        made = read_object(reply.body)
        if reply.status != 201 or not made.get("id"):
            kind = TransientError if reply.status in (409, 429) or reply.status >= 500 else PermanentError
            raise kind(
                f"Medplum answered {reply.status} for an attachment.",
                service=SERVICE,
                status=reply.status,
                method="POST",
                path="Binary",
            )
        return str(made["id"])
