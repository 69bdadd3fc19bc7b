"""HTTP to partners, with every answer bounded, every failure named and nothing repeated that might have been done.

Reads are repeated by urllib3's Retry on 429 and 5xx; a write is repeated only on 429, which a server answers before
it acts. What may have been done although its answer was lost is a TransientError with ``maybe_done``. Redirects are
never followed: a token goes to the host that it was issued for. The caller's path template stands in every error
instead of the URL.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from bot_layer import spans
from bot_layer.bot.declaration import Setting
from bot_layer.errors import AuthError, ConfigError, PermanentError, ServiceError, TransientError
from bot_layer.http.body import pieces

LARGEST_ANSWER = 20 * 1024 * 1024
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_BUSY = frozenset({429, 500, 502, 503, 504})

SETTINGS = (
    Setting("BOT_RETRIES", "How often a request is repeated that a service was too busy for", default="3"),
    Setting("BOT_BACKOFF_SECONDS", "The wait before the second repetition; it doubles each time", default="0.5"),
    Setting("BOT_LONGEST_WAIT_SECONDS", "The longest wait that a service's Retry-After can ask for", default="20"),
    Setting("BOT_TIMEOUT_SECONDS", "How long a service may be silent", default="30"),
)


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try; ``longest_wait`` bounds what a Retry-After can ask for."""

    retries: int = 3
    backoff: float = 0.5
    longest_wait: float = 20.0
    connect: float = 5.0
    read: float = 30.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Patience:
        """The patience that the settings ask for; raises ConfigError where one is no number."""
        values = {setting.name: settings.get(setting.name, setting.default or "") for setting in SETTINGS}
        wrong = [name for name, value in values.items() if not value.replace(".", "", 1).isdecimal()]
        if wrong:
            raise ConfigError(f"Give a number of 0 or more for {', '.join(wrong)}.", code="invalid-setting")
        return cls(
            retries=int(float(values["BOT_RETRIES"])),
            backoff=float(values["BOT_BACKOFF_SECONDS"]),
            longest_wait=float(values["BOT_LONGEST_WAIT_SECONDS"]),
            read=float(values["BOT_TIMEOUT_SECONDS"]),
        )


DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True)
class Answer:
    """A complete answer. ``json()`` raises where the body is none, because a gateway's HTML must not pass for data."""

    service: str
    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The parsed body; an empty one is an empty object.

        Raises TransientError for anything else than JSON: such pages come from gateways, and after a write nobody
        knows whether it was done.
        """
        if not self.body.strip():
            return {}
        try:
            return json.loads(self.body)
        except ValueError as fault:
            raise TransientError(
                f"{self.service} did not answer with JSON; try again later.",
                code="unreadable-answer",
                maybe_done=self.method not in _READS,
                **self._where(),
            ) from fault

    def outcome(self) -> dict[str, Any]:
        """The body as an object if it is one, whatever the status; else an empty object."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def error(self) -> ServiceError | AuthError:
        """The error that a refusal becomes."""
        if self.status in {401, 403}:
            what = "login" if self.status == 401 else "rights"
            return AuthError(
                f"{self.service} refused the {what} of this client for {self.method} {self.path}.",
                code="login-refused" if self.status == 401 else "rights-missing",
            )
        if self.status in _BUSY:
            return TransientError(
                f"{self.service} was too busy or failed; try again later.",
                retry_after=retry_after(self.headers),
                maybe_done=self.status != 429 and self.method not in _READS,
                **self._where(),
            )
        return PermanentError(
            f"{self.service} refused {self.method} {self.path} with status {self.status}.",
            issues=_issue_codes(self.outcome()),
            **self._where(),
        )

    def _where(self) -> dict[str, Any]:
        return {"service": self.service, "status": self.status, "method": self.method, "path": self.path}


@dataclass(frozen=True)
class Transport:
    """One service over HTTPS. ``service`` is its name in errors."""

    service: str
    patience: Patience = DEFAULT_PATIENCE
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def send(
        self,
        method: str,
        url: str,
        *,
        path: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | list[tuple[str, str]] | None = None,
        data: Mapping[str, str] | None = None,
        json_body: Any = None,
    ) -> Answer:
        """The answer, whatever its status; ``path`` is the template that stands for the URL in errors.

        Raises TransientError where no whole answer came, ConfigError for an unsafe URL.
        """
        require_safe_url(url, self.service)
        body = None if json_body is None else json.dumps(json_body, ensure_ascii=False).encode()
        with spans.request(self.service, method, url, path) as span:
            try:
                with _session(self.patience).request(
                    method,
                    url,
                    headers={**(headers or {}), **span.headers},
                    params=params,
                    data=body if body is not None else data,
                    timeout=(self.patience.connect, self.patience.read),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    span.tell(status=response.status_code, resent=_resent(response))
                    return self._read(response, method, path)
            except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as fault:
                raise self._lost(fault, method, path) from fault

    def _read(self, response: requests.Response, method: str, path: str) -> Answer:
        body = bytearray()
        for chunk in pieces(response, clock=self.clock):
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise PermanentError(
                    f"{self.service} answered with more than {LARGEST_ANSWER} bytes.",
                    service=self.service,
                    status=response.status_code,
                    method=method,
                    path=path,
                    code="answer-too-large",
                )
        return Answer(self.service, method, path, response.status_code, response.headers, bytes(body))

    def _lost(self, fault: Exception, method: str, path: str) -> TransientError:
        return TransientError(
            f"{self.service} could not be reached, or its answer was lost; try again later.",
            service=self.service,
            method=method,
            path=path,
            code="service-unreachable",
            maybe_done=method not in _READS and not isinstance(fault, requests.exceptions.ConnectTimeout),
        )


def require_safe_url(url: str, service: str) -> None:
    """Raise ConfigError unless the URL is HTTPS, or HTTP on this machine or a private network."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_near(parts.hostname):
        return
    raise ConfigError(f"Give {service} an https:// address; http:// is for this machine only.", code="unsafe-address")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds where it is a plain number, else None."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isdecimal() else None


class _BoundedRetry(Retry):
    """urllib3's Retry, which never waits longer than ``longest_wait`` because a service says so."""

    longest_wait = 20.0

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, self.longest_wait)

    def get_backoff_time(self) -> float:
        return min(super().get_backoff_time(), self.longest_wait)

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: ARG002  # urllib3's signature
        if status_code == 429:
            return True
        return method.upper() in _READS and status_code in _BUSY

    def new(self, **changes: Any) -> _BoundedRetry:
        made = super().new(**changes)
        made.longest_wait = self.longest_wait
        return made


@lru_cache(maxsize=32)
def _session(patience: Patience) -> requests.Session:
    """One pool of connections for each patience; it sends no login of its own, whatever a .netrc says."""
    retry = _BoundedRetry(
        total=patience.retries,
        # urllib3 repeats whatever it can't sort, writes too: TLS that breaks after the request was sent.
        other=0,
        backoff_factor=patience.backoff,
        allowed_methods=_READS,
        status_forcelist=(),
        raise_on_status=False,
        respect_retry_after_header=True,
    )
    retry.longest_wait = patience.longest_wait
    session = requests.Session()
    session.auth = _no_login
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_connections=8, pool_maxsize=32))
    return session


def _resent(response: requests.Response) -> int | None:
    """How often urllib3 repeated the request."""
    retries = response.raw.retries
    return len(retries.history) or None if retries is not None else None


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_near(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _issue_codes(outcome: Mapping[str, Any]) -> list[str]:
    issues = outcome.get("issue")
    return (
        [str(issue.get("code", "")) for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []
    )
