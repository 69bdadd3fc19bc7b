"""Content into Medplum, as Binary: in a stream, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson

from bot_layer.errors import PermanentError, TransientError
from bot_layer.http import pace
from bot_layer.http.answer import Answer
from bot_layer.medplum.login import SERVICE
from bot_layer.medplum.requests import MedplumRequests

_TRIES: Final = 8


@dataclass(frozen=True)
class Contents:
    """Stores what documents point to. Safe to share between threads."""

    requests: MedplumRequests

    def store(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "") -> str:
        """The id of a new Binary that holds these bytes; ``owner`` is the Patient whose readers may read it."""
        headers = {"Content-Type": content_type} | ({"X-Security-Context": owner} if owner else {})
        reply = self._sent("POST", "Binary", "Binary", headers, pieces)
        if reply.status != 201:
            raise _fault("POST", reply.status)
        return str(orjson.loads(reply.body)["id"])

    def put(self, content_id: str, content_type: str, pieces: Iterable[bytes]) -> str:
        """The id of the Binary that holds these bytes now: this one, or a new one where it is not found."""
        if content_id:
            headers = {"Content-Type": content_type}
            reply = self._sent("PUT", f"Binary/{content_id}", "Binary/{id}", headers, pieces)
            if reply.status == 200:
                return content_id
            if reply.status not in (404, 410):
                raise _fault("PUT", reply.status)
        return self.store(content_type, pieces)

    def _sent(self, method: str, path: str, template: str, headers: dict[str, str], pieces: Iterable[bytes]) -> Answer:
        """The answer that is final. A POST whose answer was lost is repeated: a spare Binary harms less than none."""
        once = pieces is iter(pieces)
        for attempt in range(_TRIES):
            last = once or attempt == _TRIES - 1
            self.requests.may_write()
            try:
                reply = self.requests.send(
                    method,
                    f"fhir/R4/{path}",
                    template=template,
                    body=iter(pieces),
                    headers=headers,
                    cost=pace.WRITE_COST,
                )
            except TransientError:
                if last:
                    raise
                self.requests.push_back(attempt)
                continue
            if last or not _is_busy(reply.status):
                return reply
            if reply.status == 429:
                self.requests.wait_for_quota(reply)
            else:
                self.requests.push_back(attempt)
        raise AssertionError("the last try returns or raises")


def _is_busy(status: int) -> bool:
    return status in (409, 429) or status >= 500


def _fault(method: str, status: int) -> PermanentError | TransientError:
    kind = TransientError if _is_busy(status) else PermanentError
    return kind(
        f"Medplum answered {status} for an attachment.", service=SERVICE, status=status, method=method, path="Binary"
    )
