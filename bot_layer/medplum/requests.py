"""Requests to Medplum as a bulk sync makes them: paced by the quota, repeated where that is safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import orjson

from bot_layer.errors import AuthError, PermanentError, TransientError
from bot_layer.fhir.bundle import NotASearchset, read_searchset
from bot_layer.fhir.json import Json
from bot_layer.http import pace
from bot_layer.http.addresses import query_of
from bot_layer.http.wire import Reply, Wire
from bot_layer.medplum.login import SERVICE, Login, read_object

FHIR_JSON: Final = "application/fhir+json"
ROUNDS: Final = 40  # tries of anything that Medplum may take later


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
        self._wire = Wire(SERVICE)
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
    ) -> Reply:
        """An answer, whatever its status, paced by the quota; a 401 renews the token once."""
        token = self.login.token()
        for _ in range(2):
            self._take(cost)
            sent = {"Authorization": f"Bearer {token}", "X-Medplum": "extended"} | dict(headers or {})
            self.sent += 1
            reply = self._wire.send(method, f"{self.base_url}/{path}", path=template, headers=sent, body=body)
            self._observe(reply)
            if reply.status != 401 or not isinstance(body, bytes | None):
                break
            token = self.login.token(stale=token)
        if reply.status in (401, 403):
            what = "login" if reply.status == 401 else "rights"
            raise AuthError(
                f"Medplum refused the {what} of this client for {method} {template}.", code=f"medplum-{what}-refused"
            )
        is_page = reply.headers.get("content-type", "").startswith("text/html")
        if reply.status in (200, 201) and (is_page or not reply.body):
            # A gateway's own answer, whatever its status: nobody knows what became of the request.
            raise self._wire.lost(method, template, sent=True)
        return reply

    def repeat(self, method: str, path: str, *, template: str, body: bytes | None = None, cost: int = 1) -> Reply:
        """The answer to something that may be asked twice, asked until the server is not busy."""
        headers = {"Content-Type": FHIR_JSON} if body is not None else {}
        for attempt in range(ROUNDS):
            try:
                reply = self.send(method, path, template=template, body=body, headers=headers, cost=cost)
            except TransientError:
                self.push_back(attempt)
                continue
            if reply.status == 429:
                self.wait_for_quota(reply)
            elif reply.status >= 500 or reply.status == 409:
                self.push_back(attempt)
            else:
                return reply
        raise TransientError("Medplum stayed busy.", service=SERVICE, method=method, path=template)

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
        self.wait(min(0.05 * 2.0 ** min(attempt, 10), 10.0))

    def wait_for_quota(self, reply: Reply) -> None:
        """Wait as long as a 429 says."""
        seen = pace.read_rate_limit(reply.headers.get("ratelimit", ""))
        asked = reply.headers.get("retry-after", "")
        seconds = float(asked) if asked.isdecimal() else float(seen[1]) if seen else _until_points(reply.body)
        self.wait(min(max(seconds, 0.05), 60.0))

    def _take(self, cost: int) -> None:
        while True:
            with self._lock:
                pause = self._quota.pause(cost, self.clock())
                if not pause:
                    self._quota = self._quota.spent(cost, self.clock())
                    return
            self.wait(min(pause, 60.0))

    def _observe(self, reply: Reply) -> None:
        seen = pace.read_rate_limit(reply.headers.get("ratelimit", ""))
        if seen:
            with self._lock:
                self._quota = self._quota.observed(*seen, self.clock())


def _until_points(body: bytes) -> float:
    """Seconds until the quota is filled again, from the OperationOutcome of a 429."""
    for issue in read_object(body).get("issue") or []:
        try:
            return float(orjson.loads(issue.get("diagnostics") or "{}").get("_msBeforeNext", 1000)) / 1000
        except (ValueError, AttributeError):
            continue
    return 1.0
