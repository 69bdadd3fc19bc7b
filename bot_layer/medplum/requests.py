"""Requests to Medplum as a bulk sync makes them: paced by the quota, repeated where that is safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from bot_layer.errors import AuthError, PermanentError, TransientError
from bot_layer.fhir.bundle import NotASearchset, read_searchset
from bot_layer.fhir.json import Json
from bot_layer.http import pace
from bot_layer.http.addresses import query_of
from bot_layer.http.answer import Answer
from bot_layer.http.policy import BUSY, RetryPolicy
from bot_layer.http.retry import repeat
from bot_layer.medplum.login import BULK, SERVICE, Login
from bot_layer.medplum.quota import seconds_until_filled

FHIR_JSON: Final = "application/fhir+json"
ROUNDS: Final = 40  # tries of anything that Medplum may take later
_PATIENT: Final = RetryPolicy(retries=ROUNDS - 1, backoff=0.05, longest_wait=60.0)


@dataclass
class MedplumRequests:
    """One Medplum with one login. ``may_write`` is asked before each write. Safe to share between threads."""

    base_url: str
    login: Login
    share: float = 0.8
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    may_write: Callable[[], None] = field(default=lambda: None, repr=False)
    sent: int = 0

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self._quota = pace.Quota(self.share)
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        path: str,
        *,
        template: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        cost: int = 1,
    ) -> Answer:
        """An answer, whatever its status, paced by the quota; a 401 renews the token once."""
        token = self.login.token()
        for _ in range(2):
            self._take(cost)
            sent = {"Authorization": f"Bearer {token}", "X-Medplum": "extended"} | dict(headers or {})
            self.sent += 1
            reply = BULK.send(method, f"{self.base_url}/{path}", path=template, headers=sent, body=body)
            self._observe(reply)
            if reply.status != 401 or not isinstance(body, bytes | None):
                break
            token = self.login.token(stale=token)
        if reply.status in (401, 403):
            what = "login" if reply.status == 401 else "rights"
            raise AuthError(
                f"Medplum refused the {what} of this client for {method} {template}.", code=f"medplum-{what}-refused"
            )
        if reply.status in (200, 201) and (reply.is_page or not reply.body):
            # A gateway's own answer, whatever its status: the result of the request is unknown.
            raise BULK.lost(method, template, sent=True)
        return reply

    def repeat(self, method: str, path: str, *, template: str, body: bytes | None = None, cost: int = 1) -> Answer:
        """The answer to something that may be asked twice, asked until the server is not busy."""
        headers = {"Content-Type": FHIR_JSON} if body is not None else {}

        def once() -> Answer:
            reply = self.send(method, path, template=template, body=body, headers=headers, cost=cost)
            if reply.status in BUSY or reply.status == 409:
                raise TransientError(
                    "Medplum stayed busy.",
                    service=SERVICE,
                    status=reply.status,
                    method=method,
                    path=template,
                    retry_after=self._asked_to_wait(reply) if reply.status == 429 else None,
                )
            return reply

        return repeat(once, _PATIENT, when=lambda _: True, wait=self.wait)

    def search(self, resource_type: str, query: str) -> Iterator[Json]:
        """Every match of a search, page by page."""
        path = f"fhir/R4/{resource_type}?{query}"
        while path:
            reply = self.repeat("GET", path, template=resource_type, cost=pace.SEARCH_COST)
            if reply.status != 200:
                raise PermanentError(
                    f"Medplum refused a search of {resource_type} with status {reply.status}.",
                    service=SERVICE,
                    status=reply.status,
                    method="GET",
                    path=resource_type,
                )
            try:
                page = read_searchset(reply.json())
            except NotASearchset as fault:
                # It must not pass for "nothing there": all that is there would be made once more.
                raise reply.unreadable(str(fault)) from fault
            yield from page.resources
            path = f"fhir/R4/{resource_type}?{urlencode(query_of(page.next_url))}" if page.next_url else ""

    # -- Pace

    def push_back(self, attempt: int) -> None:
        """Wait a little, and longer each time."""
        self.wait(_PATIENT.pause(attempt))

    def wait_for_quota(self, reply: Answer) -> None:
        """Wait as long as a 429 asks for."""
        self.wait(self._asked_to_wait(reply))

    def _asked_to_wait(self, reply: Answer) -> float:
        asked = seconds_until_filled(reply.headers, reply.body, now=time.time())
        return max(1.0 if asked is None else asked, 0.05)

    def _take(self, cost: int) -> None:
        while True:
            with self._lock:
                pause = self._quota.pause(cost, self.clock())
                if not pause:
                    self._quota = self._quota.spent(cost, self.clock())
                    return
            self.wait(min(pause, 60.0))

    def _observe(self, reply: Answer) -> None:
        seen = pace.read_rate_limit(reply.headers.get("ratelimit", ""))
        if seen:
            with self._lock:
                self._quota = self._quota.observed(*seen, self.clock())
