"""Requests to a source of bulk data: counted, repeated where that is safe, and with the token only to its own host.

Every wait goes through ``wait``, so that a test runs at once and SIGTERM ends it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from bot_layer.bulk_sync.rules import bulk_export, smart
from bot_layer.errors import AuthError, PermanentError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.http.wire import Opened, Reply, Wire

SERVICE: Final = smart.SERVICE
BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
FHIR: Final = {"Accept": "application/fhir+json"}
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
Log = Callable[[str, str], None]


class ReadRefused(AuthError):
    """The source lets this client log in, and not read this."""

    default_code = "source-rights-missing"


@dataclass
class OpenRequests:
    """Requests without our token. Safe to share between threads."""

    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    tries: int = 6
    limits: bulk_export.WaitLimits = field(default_factory=bulk_export.WaitLimits)
    sent: int = 0

    def __post_init__(self) -> None:
        self.wire = Wire(SERVICE)

    def once(self, method: str, url: str, *, path: str, headers: dict[str, str], body: bytes | None = None) -> Reply:
        """An answer, whatever its status: what it means is for the caller to say."""
        self.sent += 1
        return self.wire.send(method, url, path=path, headers=headers, body=body)

    def opened(self, url: str, *, path: str, headers: dict[str, str]) -> AbstractContextManager[Opened]:
        """The head of an answer, and its body as it comes, packed or not."""
        self.sent += 1
        return self.wire.open("GET", url, path=path, headers=headers, decode=False)

    def repeated(self, url: str, *, path: str, headers: dict[str, str]) -> Reply:
        """A read, repeated while the source is busy or its answer is lost."""
        for attempt in range(1, self.tries + 1):
            try:
                reply = self.once("GET", url, path=path, headers=headers)
            except TransientError:
                if attempt == self.tries:
                    raise
                self.wait(self.pause(attempt))
                continue
            if reply.status not in BUSY or attempt == self.tries:
                return reply
            self.wait(self.pause(attempt, self.asked_to_wait(reply)))
        raise AssertionError("the last try returns or raises")

    def asked_to_wait(self, reply: Reply) -> float | None:
        """The seconds for which the source asks to be left alone."""
        return bulk_export.read_retry_after(reply.headers.get("retry-after"), now=self.clock())

    def pause(self, attempt: int, asked: float | None = None) -> float:
        """Seconds until the next try."""
        return min(max(asked or 0.0, 0.5 * 2.0**attempt), self.limits.most)


class Tokens(Protocol):
    """Where the token comes from."""

    def token(self, *, stale: str = "") -> str:
        """A token that is good now, and not the stale one."""


@dataclass(frozen=True)
class AuthorisedRequests:
    """Requests with our token: only the source's own host gets it; a 401 renews it, twice at most."""

    open: OpenRequests
    login: Tokens
    source: str

    def once(
        self, method: str, url: str, *, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """An answer to something that must not be repeated unasked: a kick-off sent twice is a second job."""
        return self._sent(
            url,
            method,
            path,
            lambda token: self.open.once(method, url, path=path, headers=_with(headers, token), body=body),
        )

    def read(self, url: str, *, path: str) -> Reply:
        """The answer to a read, repeated while the source is busy."""
        return self._sent(
            url, "GET", path, lambda token: self.open.repeated(url, path=path, headers=_with(FHIR, token))
        )

    def _sent(self, url: str, method: str, path: str, send: Callable[[str], Reply]) -> Reply:
        if origin(url) != origin(self.source):
            raise PermanentError(
                "The source names an address on another host for this; the token is not sent there.",
                service=SERVICE,
                method=method,
                path=path,
                code="foreign-host",
            )
        token = self.login.token()
        for attempt in range(3):
            reply = send(token)
            if reply.status != 401 or attempt == 2:
                break
            token = self.login.token(stale=token)
        return reply


def _with(headers: dict[str, str] | None, token: str) -> dict[str, str]:
    return (headers or {}) | {"Authorization": f"Bearer {token}"}


def refused(reply: Reply, path: str) -> PermanentError | AuthError | TransientError:
    """The error for a read that was refused."""
    if reply.status in (401, 403):
        return ReadRefused(f"The source refused GET {path} ({reply.status}).")
    kind = TransientError if reply.status in BUSY else PermanentError
    return kind(
        f"The source answered {reply.status} for GET {path}.",
        service=SERVICE,
        status=reply.status,
        method="GET",
        path=path,
    )


def require_https(url: str) -> None:
    """PermanentError for an address where the token, or a patient's data, would go in the clear."""
    parts = _parts(url)
    if parts.host and (parts.scheme == "https" or (parts.scheme == "http" and parts.host in _LOOPBACK)):
        return
    raise _unsafe("without https")


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    parts = _parts(url)
    scheme = parts.scheme or ""
    return scheme, parts.host or "", parts.port or {"https": 443, "http": 80}.get(scheme)


def absolute(base: str, url: str) -> str:
    """An address that the source names, which may be relative."""
    try:
        return urljoin(base, url)
    except ValueError as fault:
        raise _unsafe("that can't be read") from fault


def _parts(url: str) -> Url:
    # Read as the connection reads it: the standard library finds another host in "https://one\@other/".
    try:
        return parse_url(url)
    except LocationParseError as fault:
        raise _unsafe("that can't be read") from fault


def _unsafe(what: str) -> PermanentError:
    return PermanentError(
        f"The source names an address {what}; nothing is sent there.", service=SERVICE, code="unsafe-address"
    )


def read_object(body: bytes) -> Json:
    """A JSON object, or an empty one."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
