"""The public keys for a Medplum server's tokens, cached, so that a token is verified without a request.

``GET <baseUrl>.well-known/jwks.json`` returns a JSON Web Key Set (RFC 7517). Keys are read again after an hour, and
when a token names an unknown key. While the server does not answer, the cached keys remain valid.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import jwt

from bot_layer.errors import BotError, TransientError
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport

KEEP_SECONDS: Final = 3600.0
# An unknown key causes at most one request in this time, so that forged tokens cause no flood of requests.
PAUSE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0
QUICK: Final = RetryPolicy(retries=0, connect=3.0, read=5.0)
_PATH: Final = ".well-known/jwks.json"
_log = logging.getLogger(__name__)


@dataclass
class TokenKeys:
    """The keys of one server. ``clock`` counts seconds."""

    base_url: str
    clock: Callable[[], float] = time.monotonic
    _keys: Mapping[str, jwt.PyJWK] = field(default_factory=dict, repr=False)
    _stale_at: float = 0.0
    _next_request: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def key(self, kid: str) -> jwt.PyJWK | None:
        """The key with an id, or None if the server has none; TransientError if no key was ever read."""
        if kid not in self._keys:
            with self._lock:  # threads that waited here use what the first one read
                if kid not in self._keys:
                    self._refresh()
        elif self.clock() >= self._stale_at and self._lock.acquire(blocking=False):
            try:  # the others continue with the key that they have
                self._refresh()
            finally:
                self._lock.release()
        return self._keys.get(kid)

    def _refresh(self) -> None:
        now = self.clock()
        if now >= self._next_request:
            try:
                self._keys = self._read()
            except BotError as error:
                self._next_request = now + RETRY_SECONDS
                _log.warning("Medplum's keys for tokens could not be read: %s", error.code)
            else:
                self._next_request, self._stale_at = now + PAUSE_SECONDS, now + KEEP_SECONDS
        if not self._keys:
            raise TransientError(
                "Medplum's keys for tokens could not be read; try again later.",
                service="Medplum",
                method="GET",
                path=_PATH,
                code="medplum-unavailable",
                retry_after=RETRY_SECONDS,
            )

    def _read(self) -> Mapping[str, jwt.PyJWK]:
        answer = Transport("Medplum", QUICK).send("GET", f"{self.base_url}/{_PATH}", path=_PATH)
        if not answer.ok:
            raise answer.error()
        try:
            found = jwt.PyJWKSet.from_dict(answer.json())
        except (jwt.PyJWTError, AttributeError, TypeError) as fault:
            raise TransientError(
                "Medplum did not answer with keys; try again later.", service="Medplum", code="unreadable-answer"
            ) from fault
        return {key.key_id: key for key in found.keys if key.key_id}
