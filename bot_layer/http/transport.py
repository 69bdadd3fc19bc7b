"""HTTP to a service: every answer is bounded, every failure has a name, nothing is repeated that may have been done.

The policy says what is repeated. What may have been done although its answer was lost is a TransientError with
``maybe_done``. Redirects are never followed: a token goes to the host that it was issued for. Errors carry the caller's
path template instead of the URL.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypedDict, Unpack

import requests
import urllib3

from bot_layer import exchanges, spans
from bot_layer.errors import PermanentError, TransientError
from bot_layer.fhir.json import encode
from bot_layer.http import adapter, deadline
from bot_layer.http.addresses import require_safe_url
from bot_layer.http.answer import Answer
from bot_layer.http.body import pieces
from bot_layer.http.policy import DEFAULT_POLICY, READS, SETTINGS, RetryPolicy

__all__ = [
    "LARGEST_ANSWER",
    "SETTINGS",
    "Answer",
    "Opened",
    "Transport",
    "require_safe_url",
]

LARGEST_ANSWER: Final = 20 * 1024 * 1024
_FAULTS: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


class Sent(TypedDict, total=False):
    """What a request carries; a ``body`` of bytes is sent instead of a form."""

    headers: Mapping[str, str] | None
    params: Mapping[str, str] | list[tuple[str, str]] | None
    form: Mapping[str, str] | None
    body: bytes | None


# The head of an answer (its body is empty there), and the body as a stream.
Opened = tuple[Answer, Iterator[bytes]]


@dataclass(frozen=True)
class Transport:
    """One service over HTTP. ``service`` is its name in errors; no answer may be longer than ``largest`` bytes.

    ``lost_code`` is the code for a lost answer.
    """

    service: str
    policy: RetryPolicy = DEFAULT_POLICY
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    lost_code: str = "service-unreachable"
    largest: int = LARGEST_ANSWER
    session: requests.Session | None = field(default=None, repr=False)  # connections of its own

    def send(self, method: str, url: str, *, path: str, json_body: Any = None, **sent: Unpack[Sent]) -> Answer:
        """The answer, whatever its status; ``path`` is the template that errors show instead of the URL.

        Raises TransientError where no whole answer came, PermanentError where it is too large, ConfigError for an
        unsafe URL.
        """
        if json_body is not None:
            sent["body"] = encode(json_body)
        with self.open(method, url, path=path, **sent) as (head, chunks):
            whole = bytearray()
            for chunk in chunks:
                whole += chunk
                if len(whole) > self.largest:
                    text = f"{self.service} answered with more than {self.largest} bytes."
                    raise PermanentError(text, code="answer-too-large", **head.where)
            return replace(head, body=bytes(whole))

    @contextmanager
    def open(self, method: str, url: str, *, path: str, decode: bool = True, **sent: Unpack[Sent]) -> Iterator[Opened]:
        """The head of an answer, and its body as a stream, unpacked if ``decode``.

        Raises TransientError where no answer comes, or while the stream is read where it breaks.
        """
        require_safe_url(url, self.service)
        headers, params, body = sent.get("headers") or {}, sent.get("params"), sent.get("body")
        for name, value in headers.items():
            # Tokens and versions come from answers, which may hold anything.
            if not _HEADER_VALUE.fullmatch(value):
                text = f"{self.service} sent a value that no header {name} can carry; try again later."
                raise self._transient(text, method, path, code="unreadable-answer")
        if deadline.left() <= 0:
            raise self.lost(method, path, sent=False)
        with spans.request(self.service, method, url, path) as span:
            try:
                response = (self.session or adapter.session(self.policy)).request(
                    method,
                    url,
                    headers={**headers, **span.headers},
                    params=params,
                    data=sent.get("form") if body is None else body,
                    timeout=adapter.PolicyTimeout(self.policy),  # type: ignore[arg-type]  # requests takes urllib3's own
                    allow_redirects=False,
                    stream=True,
                )
            except _FAULTS as fault:
                if tape := exchanges.tape():
                    tape.add(method, requests.Request(method, url, params=params).prepare().url or url, path=path)
                raise self.lost(method, path, sent=not isinstance(fault, requests.ConnectTimeout)) from fault
            span.annotate(status=response.status_code, resent=adapter.times_repeated(response))
        with response:
            head = Answer(self.service, method, path, response.status_code, response.headers, b"")
            chunks = self._chunks(response, method, path, decode=decode)
            with exchanges.copied(chunks, response, path, sent=body) as copied:
                yield head, copied

    def _chunks(self, response: requests.Response, method: str, path: str, *, decode: bool) -> Iterator[bytes]:
        try:
            yield from pieces(response, decode=decode, clock=self.clock)
        except _FAULTS as fault:
            raise self.lost(method, path, sent=True) from fault

    def lost(self, method: str, path: str, *, sent: bool) -> TransientError:
        """The error for an answer that did not come whole."""
        text = f"{self.service} could not be reached, or its answer was lost ({method} {path}); try again later."
        return self._transient(text, method, path, code=self.lost_code, maybe_done=sent and method not in READS)

    def _transient(self, text: str, method: str, path: str, *, code: str, maybe_done: bool = False) -> TransientError:
        return TransientError(text, service=self.service, method=method, path=path, code=code, maybe_done=maybe_done)
