"""AuditEvents of the federated responder in Medplum: documents are recorded before they are sent, queries soon after.

A write costs a hundred units of Medplum's quota, and a query may arrive many times a second. So the same query repeated
within a few seconds becomes one AuditEvent with a count and a period. A query whose record can't be kept is not
answered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from bot_layer.errors import BotError, TransientError
from bot_layer.federation.rules.audit import Access, audit_event
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

_MOST_WAITING = 10_000
_BATCH = 50
_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    """When the same query came: first, last, and how often."""

    first: datetime
    last: datetime
    times: int


class Recorder:
    """Records accesses in Medplum. A thread writes the collected queries; ``close`` writes the rest."""

    def __init__(self, server: Medplum, *, seconds: float, clock: Callable[[], float]) -> None:
        self._server = server
        self._seconds = seconds
        self._clock = clock
        self._waiting: dict[Access, _Asked] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def fetched(self, access: Access) -> None:
        """Record the access to a document now: without the record, nothing may be sent."""
        now = self._now()
        self._server.create(audit_event(access, now, now))

    def queried(self, access: Access) -> None:
        """Record a query soon; TransientError if too many records are pending because Medplum does not accept them."""
        now = self._now()
        with self._lock:
            if access not in self._waiting and len(self._waiting) >= _MOST_WAITING:
                raise TransientError(
                    "Accesses cannot be recorded at the moment; try again later.", service="Medplum", code="audit-full"
                )
            self._add(access, _Asked(now, now, 1))
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="federated-audit", daemon=True)
                self._thread.start()

    def _add(self, access: Access, asked: _Asked) -> None:
        known = self._waiting.get(access)
        if known is not None:
            asked = _Asked(min(known.first, asked.first), max(known.last, asked.last), known.times + asked.times)
        self._waiting[access] = asked

    def flush(self) -> None:
        """Write the pending records; those that Medplum does not accept stay pending."""
        with self._writing:
            with self._lock:
                waiting, self._waiting = list(self._waiting.items()), {}
            for start in range(0, len(waiting), _BATCH):
                part = waiting[start : start + _BATCH]
                written = self._written(part)
                with self._lock:
                    for number, (access, asked) in enumerate(part):
                        if number not in written:
                            self._add(access, asked)

    def _written(self, part: list[tuple[Access, _Asked]]) -> set[int]:
        """The places of the records that Medplum accepted."""
        entries: list[Json] = [
            {
                "request": {"method": "POST", "url": "AuditEvent"},
                "resource": audit_event(access, asked.first, asked.last, times=asked.times),
            }
            for access, asked in part
        ]
        try:
            answers = self._server.batch(entries)
        except BotError as error:
            _log.warning("%d audit events wait: %s", len(part), error.code)
            return set()
        statuses = [str(answer.get("response", {}).get("status", "")) for answer in answers]
        return {number for number, status in enumerate(statuses) if status.startswith("2")}

    def close(self) -> None:
        """Stop the thread and write the pending records."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self.flush()

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self.flush()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
