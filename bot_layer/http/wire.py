"""HTTP whose bodies are streamed: one pool of connections for each thread, no redirects, no waiting, no repetition.

What can't be said by a status (a reset, a timeout, half an answer) is a TransientError that says whether the request
may have been carried out. Who calls decides what is repeated, because a repeated write is a duplicate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
import urllib3
from requests.adapters import HTTPAdapter

from bot_layer import spans
from bot_layer.errors import TransientError
from bot_layer.http.body import pieces

LARGEST_BODY = 64 * 1024 * 1024
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Reply:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


# The head of an answer (its body is empty there), and the body as a stream.
Opened = tuple[Reply, Iterator[bytes]]


@dataclass
class Wire:
    """One service. ``service`` is its name in errors; ``path`` in each call stands there for the URL."""

    service: str
    connect_seconds: float = 10.0
    read_seconds: float = 120.0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def send(
        self,
        method: str,
        url: str,
        *,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        limit: int = LARGEST_BODY,
    ) -> Reply:
        """The whole answer, whatever its status."""
        with self.open(method, url, path=path, headers=headers, body=body) as (reply, chunks):
            whole = bytearray()
            for chunk in chunks:
                whole += chunk
                if len(whole) > limit:
                    raise self.lost(method, path, sent=True)
            return Reply(reply.status, reply.headers, bytes(whole))

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        decode: bool = True,
    ) -> Iterator[Opened]:
        """The head of an answer, and its body as a stream that ends in TransientError if it breaks."""
        with spans.request(self.service, method, url, path) as span:
            try:
                response = self._session().request(
                    method,
                    url,
                    headers={**(headers or {}), **span.headers},
                    data=body,
                    timeout=(self.connect_seconds, self.read_seconds),
                    allow_redirects=False,
                    stream=True,
                )
            except requests.RequestException as fault:
                unsent = isinstance(fault, requests.exceptions.ConnectTimeout)
                raise self.lost(method, path, sent=not unsent) from fault
            span.tell(status=response.status_code)
        try:
            head = Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, b"")
            yield head, self._chunks(response, method, path, decode=decode)
        finally:
            response.close()

    def _chunks(self, response: requests.Response, method: str, path: str, *, decode: bool) -> Iterator[bytes]:
        try:
            yield from pieces(response, decode=decode, clock=self.clock)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as fault:
            raise self.lost(method, path, sent=True) from fault

    def lost(self, method: str, path: str, *, sent: bool) -> TransientError:
        """The error for an answer that did not come whole."""
        return TransientError(
            f"{self.service} could not be reached, or its answer was lost ({method} {path}).",
            service=self.service,
            method=method,
            path=path,
            code="answer-lost",
            maybe_done=sent and method not in _SAFE,
        )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # a .netrc must not add a login of its own
            session.auth = _no_login
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=4, max_retries=0))
            self._local.session = session
        return session


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
