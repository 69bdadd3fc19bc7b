"""Medplum's token for a bulk sync: the one that a bot was given, or a ClientApplication's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlencode

import orjson

from bot_layer.errors import AuthError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.http.wire import Wire

SERVICE: Final = "Medplum"


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
        self._lock = threading.Lock()
        self._value, self._until = "", 0.0

    def token(self, *, stale: str = "") -> str:
        """The token that is good now."""
        with self._lock:
            if not self._value or self._value == stale or self.clock() >= self._until:
                self._renew()
            return self._value

    def _renew(self) -> None:
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        body = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = Wire(SERVICE).send("POST", f"{self.base_url}/oauth2/token", path="token", headers=headers, body=body)
        answer = read_object(reply.body)
        if reply.status != 200 or not answer.get("access_token"):
            if reply.status == 429 or reply.status >= 500:
                raise TransientError("Medplum's login is busy; try again later.", service=SERVICE, status=reply.status)
            raise AuthError(
                "Medplum refused the login: check MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.",
                code="medplum-login-refused",
            )
        life = float(answer.get("expires_in") or 300)
        self._value, self._until = str(answer["access_token"]), self.clock() + life * 0.9
        self.profile = str((answer.get("profile") or {}).get("reference") or "")
        self.project = str((answer.get("project") or {}).get("reference") or "").removeprefix("Project/")


def read_object(body: bytes) -> Json:
    """A JSON object, or an empty one."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
