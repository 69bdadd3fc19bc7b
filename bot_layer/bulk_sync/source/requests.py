"""Requests to a source of bulk data: retried if that is safe, and with the token only to its own host.

Every wait calls ``wait``, so that tests do not sleep and SIGTERM ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from bot_layer.bulk_sync.rules.bulk_export import LONGEST_WAIT
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.source.hosts import HostGuard, absolute, origin
from bot_layer.errors import PermanentError
from bot_layer.http.adapter import checked_session
from bot_layer.http.answer import Answer
from bot_layer.http.policy import BUSY, RetryPolicy
from bot_layer.http.retry import repeat
from bot_layer.http.transport import Opened, Transport

MOVED: Final = frozenset({301, 302, 303, 307, 308})
FHIR: Final = {"Accept": "application/fhir+json"}
_ONCE: Final = RetryPolicy(retries=0, connect=10.0, read=120.0)
_REDIRECTS: Final = 5
_SAME_METHOD: Final = frozenset({307, 308})
_LARGEST: Final = 64 * 1024 * 1024
Log = Callable[[str, str], None]


@dataclass
class OpenRequests:
    """Requests without our token. Thread-safe."""

    guard: HostGuard
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    tries: int = 6

    def __post_init__(self) -> None:
        session = checked_session(_ONCE, self.guard.check_peer)
        self.transport = Transport(SERVICE, _ONCE, largest=_LARGEST, lost_code="answer-lost", session=session)
        self.policy = RetryPolicy(retries=self.tries - 1, backoff=1.0, longest_wait=LONGEST_WAIT)

    def once(self, method: str, url: str, *, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        """An answer with any status. UnsafeAddress for a URL that must not be called."""
        self.guard.check(url)
        return self.transport.send(method, url, path=path, headers=headers, body=body)

    def opened(self, url: str, *, path: str, headers: dict[str, str]) -> AbstractContextManager[Opened]:
        """The headers of an answer, and its raw body, which may be compressed."""
        self.guard.check(url)
        return self.transport.open("GET", url, path=path, headers=headers, decode=False)

    def repeated(self, url: str, *, path: str, headers: dict[str, str]) -> Answer:
        """A read, retried while the source is busy or its answer is lost."""
        return repeat(
            lambda: self.once("GET", url, path=path, headers=headers),
            self.policy,
            when=lambda _: True,
            again=lambda answer: answer.status in BUSY,
            asked=lambda answer: answer.retry_after(self.clock()),
            wait=self.wait,
        )


class Tokens(Protocol):
    """The source of the token."""

    def token(self, *, stale: str = "") -> str:
        """A currently valid token that is not the stale one."""


@dataclass(frozen=True)
class AuthorizedRequests:
    """Requests with our token, which is sent only to the source's own host, even after a redirect."""

    open: OpenRequests
    login: Tokens
    source: str

    def once(
        self,
        method: str,
        url: str,
        *,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        anywhere: bool = False,
    ) -> tuple[Answer, str]:
        """The answer to a request that must not be retried automatically, and the URL that gave it.

        A kick-off that is sent twice is a second job. ``anywhere`` allows another host, which gets no token.
        """
        if not anywhere:
            self._require_own(url, method, path)

        def send(place: str, token: dict[str, str]) -> Answer:
            return self.open.once(method, place, path=path, headers=(headers or {}) | token, body=body)

        return self._followed(url, method, send)

    def read(self, url: str, *, path: str) -> Answer:
        """The answer to a read, retried while the source is busy."""
        self._require_own(url, "GET", path)
        answer, _ = self._followed(
            url, "GET", lambda place, token: self.open.repeated(place, path=path, headers=FHIR | token)
        )
        return answer

    def is_own(self, url: str) -> bool:
        """True for a URL on the host that the token was issued for."""
        return origin(url) == origin(self.source)

    def _require_own(self, url: str, method: str, path: str) -> None:
        if not self.is_own(url):
            raise PermanentError(
                "The source names an address on another host for this; the token is not sent there.",
                service=SERVICE,
                method=method,
                path=path,
                code="foreign-host",
            )

    def _followed(self, url: str, method: str, send: Callable[[str, dict[str, str]], Answer]) -> tuple[Answer, str]:
        """The answer after redirects. A request that is not a read follows a redirect only if the method is kept."""
        for _ in range(_REDIRECTS):
            answer = self._sent(url, send)
            place = answer.headers.get("location", "")
            if not place or answer.status not in (MOVED if method == "GET" else _SAME_METHOD):
                break
            url = absolute(url, place)
        return answer, url

    def _sent(self, url: str, send: Callable[[str, dict[str, str]], Answer]) -> Answer:
        """The answer, with our token if the URL is on the source's own host; a 401 renews the token, at most twice."""
        if not self.is_own(url):
            return send(url, {})
        token = self.login.token()
        for attempt in range(3):
            answer = send(url, {"Authorization": f"Bearer {token}"})
            if answer.status != 401 or attempt == 2:
                break
            token = self.login.token(stale=token)
        return answer
