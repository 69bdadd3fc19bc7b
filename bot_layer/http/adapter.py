"""urllib3's Retry and timeouts with our policy: what is repeated, how long to wait, never beyond the deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import MaxRetryError, ResponseError
from urllib3.util import Timeout
from urllib3.util.retry import Retry

from bot_layer.http import deadline
from bot_layer.http.policy import READS, RetryPolicy, may_repeat, read_retry_after


class PolicyTimeout(Timeout):
    """The timeouts of a policy. urllib3 clones it for each attempt: that is where the deadline shortens them."""

    def __init__(self, policy: RetryPolicy) -> None:
        connect, read = policy.timeouts()
        super().__init__(connect=connect, read=read)
        self._policy = policy

    def clone(self) -> PolicyTimeout:
        """The timeouts of the next attempt."""
        return PolicyTimeout(self._policy)


class PolicyRetry(Retry):
    """urllib3's Retry that asks the policy."""

    policy = RetryPolicy()

    @classmethod
    def of(cls, policy: RetryPolicy) -> PolicyRetry:
        """The retries of a policy."""
        made = cls(
            total=policy.retries,
            # urllib3 would repeat other failures too, also of writes: TLS that breaks after the request was sent.
            other=0,
            allowed_methods=READS,
            status_forcelist=(),
            raise_on_status=False,
        )
        made.policy = policy
        return made

    def new(self, **changes: Any) -> PolicyRetry:
        """The retries that are left."""
        made = super().new(**changes)
        made.policy = self.policy
        return made

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: ARG002  # urllib3's signature
        """True where the policy allows to repeat."""
        return bool(self.total) and may_repeat(status_code, safe=method.upper() in READS)

    def increment(self, *given: Any, **named: Any) -> PolicyRetry:
        """The retries after this failure; the failure itself where the deadline leaves no time for another attempt."""
        made = super().increment(*given, **named)
        if made._pause(named.get("response")) >= deadline.left():
            url = given[1] if len(given) > 1 else named.get("url")
            raise MaxRetryError(named["_pool"], str(url), named.get("error") or ResponseError("no time is left"))
        return made

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        """Wait before the next attempt."""
        time.sleep(self._pause(response))

    def _pause(self, response: urllib3.BaseHTTPResponse | None) -> float:
        asked = response.headers.get("Retry-After") if response is not None else None
        return self.policy.pause(len(self.history) - 1, read_retry_after(asked, now=time.time()))


@lru_cache(maxsize=32)
def session(policy: RetryPolicy) -> requests.Session:
    """The connections of a policy, shared by all threads. No login of a .netrc, no cookies."""
    return _session(policy, HTTPAdapter)


def checked_session(policy: RetryPolicy, check: Callable[[str, str], None]) -> requests.Session:
    """Connections of their own, each checked before anything is sent on it; what ``check`` raises ends the request.

    ``check`` is given the host and the address to which the connection was made. It is not asked for a proxy.
    """

    class Checked:
        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()  # type: ignore[misc]  # urllib3's, of the classes below
            try:
                check(self.host, made.getpeername()[0])  # type: ignore[attr-defined]
            except BaseException:
                made.close()
                raise
            return made

    class Plain(Checked, HTTPConnection): ...

    class Secure(Checked, HTTPSConnection): ...

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *given: Any, **named: Any) -> None:
            super().init_poolmanager(*given, **named)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    return _session(policy, Adapter)


class _Session(requests.Session):
    def get_redirect_target(self, _response: requests.Response) -> None:
        """No redirect is followed here, nor its address read, which may be none."""


def _session(policy: RetryPolicy, adapter: type[HTTPAdapter]) -> requests.Session:
    made = _Session()
    made.auth = lambda request: request
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("https://", "http://"):
        made.mount(scheme, adapter(max_retries=PolicyRetry.of(policy), pool_connections=8, pool_maxsize=32))
    return made


def times_repeated(response: requests.Response) -> int | None:
    """How often urllib3 repeated the request."""
    retries = response.raw.retries
    return len(retries.history) or None if retries is not None else None
