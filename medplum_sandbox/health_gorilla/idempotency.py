"""HG-Idempotency-Key: a POST that is sent again gets the first one's answer, for about an hour."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from medplum_sandbox.health_gorilla.outcomes import outcome, refused
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask, Refused

HEADER = "hg-idempotency-key"
KEPT_FOR = 3600.0


@dataclass(frozen=True)
class _Seen:
    payload: str
    answer: Answer | None
    until: float


class IdempotencyKeys:
    """The keys of the last hour. They have their own lock, because a key is looked at while its request still runs."""

    def __init__(self, *, switches: Switches, clock: Callable[[], float]) -> None:
        self._switches = switches
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def once(self, ask: Ask, work: Callable[[], Answer]) -> Answer:
        """The answer of ``work``, or the earlier answer to this key; 202 while the work still runs."""
        key = ask.headers.get(HEADER)
        if key is None or not self._switches.idempotency_keys:
            return work()
        _check_key(key)
        payload = hashlib.sha256(ask.path.encode() + b"\0" + ask.body).hexdigest()
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None and seen.until > self._clock():
                return self._again(seen, payload)
            self._seen[key] = _Seen(payload, None, self._clock() + KEPT_FOR)
        answer: Answer | None = None
        try:
            answer = work()
        except Refused as no:
            answer = no.answer
        finally:
            self._finish(key, payload, answer)
        return answer

    def _finish(self, key: str, payload: str, answer: Answer | None) -> None:
        with self._lock:
            if answer is None:
                del self._seen[key]
            else:
                self._seen[key] = _Seen(payload, answer, self._clock() + KEPT_FOR)

    def _again(self, seen: _Seen, payload: str) -> Answer:
        if seen.payload != payload:
            text = "The idempotency key was used for another payload."
            return Answer(409, outcome("conflict", text) if self._switches.key_conflict_body == "outcome" else None)
        return Answer(202) if seen.answer is None else seen.answer


def _check_key(key: str) -> None:
    try:
        version = uuid.UUID(key).version
    except ValueError:
        version = None
    if version != 4:
        raise refused(400, "value", "HG-Idempotency-Key must be a version 4 UUID.")
