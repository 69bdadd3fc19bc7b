"""Access to the status page: one password, sessions in the process's memory, a limit on wrong passwords."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cachetools import TTLCache
from starlette.requests import Request

from bot_layer.errors import ConfigError
from bot_layer.http.addresses import network

PASSWORD: Final = "BOT_HOST_PAGE_PASSWORD"  # noqa: S105  # the name of the setting
LEAST_PASSWORD: Final = 12
COOKIE: Final = "bot-host-session"
SESSION_SECONDS: Final = 8 * 3600
BLOCKED_SECONDS: Final = 300
_MOST_FAILURES: Final = 10
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def read_password(environ: Mapping[str, str]) -> str | None:
    """The password, or None if the page is off; ConfigError for one that is easy to guess."""
    password = environ.get(PASSWORD) or None
    if password is not None and len(password) < LEAST_PASSWORD:
        raise ConfigError(f"Set {PASSWORD} to at least {LEAST_PASSWORD} characters.", code="short-password")
    return password


@dataclass
class Access:
    """The sessions of one host. ``clock`` is monotonic."""

    password: str = field(repr=False)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._sessions: TTLCache[str, str] = TTLCache(1000, SESSION_SECONDS, timer=self.clock)
        self._failures: TTLCache[str, int] = TTLCache(10_000, BLOCKED_SECONDS, timer=self.clock)

    def is_blocked(self, address: str) -> bool:
        """True for an address that gave too many wrong passwords within the last five minutes."""
        return self._failures.get(address, 0) >= _MOST_FAILURES

    def sign_in(self, address: str, password: str) -> str | None:
        """The token of a new session, or None for a wrong password."""
        given, right = (each.encode(errors="backslashreplace") for each in (password, self.password))
        if not hmac.compare_digest(given, right):
            self._failures[address] = self._failures.get(address, 0) + 1
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[token] = secrets.token_urlsafe(32)
        return token

    def csrf(self, request: Request) -> str | None:
        """The session's token for actions, or None without a session."""
        return self._sessions.get(request.cookies.get(COOKIE, ""))

    def may_act(self, request: Request, token: object) -> bool:
        """True for a form that a page of this session sent."""
        expected = self.csrf(request)
        return (
            expected is not None
            and is_own_form(request)
            and isinstance(token, str)
            and hmac.compare_digest(token.encode(), expected.encode())
        )

    def sign_out(self, request: Request) -> None:
        """End the session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def is_own_form(request: Request) -> bool:
    """False for a form of another site, as current browsers say."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none")


def is_loopback(request: Request) -> bool:
    """True if the browser connects to this machine itself: only then may the cookie travel without TLS."""
    return network(request.url.hostname or "") == "loopback"
