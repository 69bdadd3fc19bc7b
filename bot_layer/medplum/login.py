"""Medplum's token for a bulk sync: the one that a bot was given, or a ClientApplication's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bot_layer.errors import AuthError, TransientError
from bot_layer.http.policy import BUSY, RetryPolicy
from bot_layer.http.single_flight import SingleFlight
from bot_layer.http.transport import Transport

SERVICE: Final = "Medplum"
# Who sends many requests decides about each of them; a batch may take two minutes.
BULK: Final = Transport(
    SERVICE, RetryPolicy(retries=0, connect=10.0, read=120.0), lost_code="answer-lost", largest=64 * 1024 * 1024
)


class Login(Protocol):
    """Where the token comes from; ``profile`` is who the writes' author will be, if that is known."""

    profile: str

    def token(self, *, stale: str = "") -> str:
        """A token that is good now, and not the stale one."""


@dataclass
class GivenToken:
    """The token that Medplum gave to a bot for one call."""

    value: str = field(repr=False)
    profile: str = ""

    def token(self, *, stale: str = "") -> str:
        """The token; there is no other, so that a refused one ends the call."""
        if stale:
            raise AuthError("Medplum refused this bot's token.", code="medplum-login-refused")
        return self.value


@dataclass
class ClientLogin:
    """A ClientApplication's own token, renewed before it expires."""

    base_url: str
    client_id: str
    client_secret: str = field(repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    profile: str = ""
    project: str = ""

    def __post_init__(self) -> None:
        self._requests: SingleFlight[str] = SingleFlight(SERVICE)
        self._known = ("", 0.0)

    def token(self, *, stale: str = "") -> str:
        """The token that is good now."""
        return self._good(stale) or self._requests.do("token", lambda: self._good(stale) or self._renewed())

    def _good(self, stale: str) -> str:
        value, until = self._known
        return value if value != stale and self.clock() < until else ""

    def _renewed(self) -> str:
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        reply = BULK.send("POST", f"{self.base_url}/oauth2/token", path="token", form=form)
        if reply.status in BUSY:
            raise TransientError("Medplum's login is busy; try again later.", service=SERVICE, status=reply.status)
        answer = reply.outcome()
        value, life = answer.get("access_token"), answer.get("expires_in")
        if not reply.ok or not isinstance(value, str) or not value:
            raise AuthError(
                "Medplum refused the login: check MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.",
                code="medplum-login-refused",
            )
        seconds = float(life) if isinstance(life, int | float) and life > 0 else 300.0
        self.profile = _reference(answer.get("profile"))
        self.project = _reference(answer.get("project")).removeprefix("Project/")
        self._known = value, self.clock() + seconds * 0.9
        return value


def _reference(value: Any) -> str:
    found = value.get("reference") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
