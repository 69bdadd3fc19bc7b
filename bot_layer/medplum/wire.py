"""Under pymedplum: the one HTTP policy in place of its own repetitions, and its exceptions as ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import orjson
from pymedplum import exceptions as refusals

from bot_layer import exchanges, spans
from bot_layer.errors import AuthError, BotError, InputError, PermanentError, ServiceError, TransientError
from bot_layer.http import deadline
from bot_layer.http.body import paced
from bot_layer.http.policy import BUSY, READS, read_retry_after
from bot_layer.http.transport import LARGEST_ANSWER
from bot_layer.medplum.quota import Pace, seconds_until_filled

SERVICE = "Medplum"
_NO_JSON: Final = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
_OF_THE_WIRE: Final = (b"content-encoding", b"content-length", b"transfer-encoding")


class Wire(httpx.BaseTransport):
    """httpx's transport that raises busy and broken answers as TransientError, so that our policy repeats them.

    Timeouts are shortened to the deadline of the call. With a ``pace`` each request waits for its part of the quota.
    A request with the extension ``stream`` gets its answer as it is: unchecked, and of any length.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        clock: Callable[[], float] = time.monotonic,
        *,
        pace: Pace | None = None,
        largest: int = LARGEST_ANSWER,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._pace = pace
        self._largest = largest

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer; TransientError where there is none, or one that only says that Medplum is busy."""
        if self._pace is not None:
            self._pace.take(request)
        if query := request.url.query:
            # Without needless escapes: a search for 100 identifiers must fit into a request line.
            short = query.replace(b"%3A", b":").replace(b"%2F", b"/").replace(b"%2C", b",")
            request.url = request.url.copy_with(query=short)
        with spans.request(SERVICE, request.method, str(request.url)) as span:
            request.headers.update(span.headers)
            response = self._send(request)
            span.annotate(status=response.status_code)
            return response

    def _send(self, request: httpx.Request) -> httpx.Response:
        if deadline.left() <= 0:
            raise _transient(request.method, None, maybe_done=False)
        timeouts = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {name: deadline.shorten(each) for name, each in timeouts.items()}
        try:
            response = self._inner.handle_request(request)
        except httpx.TransportError as fault:
            if tape := exchanges.tape():
                tape.add(request.method, str(request.url))
            unsent = isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            raise _transient(request.method, None, maybe_done=not unsent) from fault
        if self._pace is not None:
            self._pace.observe(response)
        streams = bool(request.extensions.get("stream"))
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Body(response.stream, request.method, self._clock)
        if not streams or response.status_code in BUSY:
            response = self._read(request, response)
        if tape := exchanges.tape():
            _keep(tape, request, response, streams=streams)
        if response.status_code in BUSY:
            raise _busy(request.method, response)
        is_json = "json" in response.headers.get("Content-Type", "")
        return _checked(request, response) if is_json and not streams else response

    def _read(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        """The answer with its whole body, unpacked: few bytes may become many. PermanentError if it is too large."""
        whole = bytearray()
        try:
            for piece in response.iter_bytes():
                whole += piece
                if len(whole) > self._largest:
                    text = f"Medplum answered with more than {self._largest} bytes."
                    raise PermanentError(text, service=SERVICE, method=request.method, code="answer-too-large")
        except httpx.DecodingError as fault:
            raise _transient(request.method, None, maybe_done=True) from fault
        finally:
            response.close()
        headers = [each for each in response.headers.raw if each[0].lower() not in _OF_THE_WIRE]
        return httpx.Response(
            response.status_code, headers=headers, content=bytes(whole), extensions=response.extensions
        )

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class _Body(httpx.SyncByteStream):
    """A body; TransientError where it breaks or only trickles. What it answers may have been done."""

    def __init__(self, inner: httpx.SyncByteStream, method: str, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._method = method
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from paced(self._inner, clock=self._clock)
        except (httpx.TransportError, TimeoutError) as fault:
            raise _transient(self._method, None, maybe_done=True) from fault

    def close(self) -> None:
        """Gives the connection back."""
        self._inner.close()


def _keep(tape: exchanges.Tape, request: httpx.Request, response: httpx.Response, *, streams: bool) -> None:
    """Put the exchange on the tape; a body that is no JSON only where it is short."""
    headers, is_form = response.headers, "form" in request.headers.get("Content-Type", "")
    is_short = int(headers.get("Content-Length") or exchanges.LARGEST_BODY) < exchanges.LARGEST_BODY
    is_read = is_short or ("json" in headers.get("Content-Type", "") and not streams)
    sent = request.content if isinstance(request.stream, httpx.ByteStream) and not is_form else None
    received = response.read() if is_read else b""
    tape.is_whole = tape.is_whole and is_read
    status = response.status_code
    tape.add(request.method, str(request.url), sent=sent, status=status, headers=headers, received=received)


def _checked(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """The answer with its whole body, which is a JSON object with a list of entries, if any; pymedplum believes that.

    A refusal whose body is anything else keeps only its status. Raises TransientError for a success like that.
    """
    body = response.read()
    try:
        found = orjson.loads(body) if body.strip() else {}  # refuses what is nested more than 1,024 deep
    except ValueError:
        found = None
    entries = found.get("entry", []) if isinstance(found, dict) else None
    if isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("resource", {}), dict) for entry in entries
    ):
        return response
    if response.is_success:
        text = "Medplum sent an answer that cannot be read; try again later."
        raise unreadable(text, request.method, status=response.status_code)
    return httpx.Response(response.status_code, headers={"Content-Type": "application/json"}, content=b"{}")


def _transient(method: str, status: int | None, *, maybe_done: bool) -> TransientError:
    return TransientError(
        "Medplum was too busy, failed, or its answer was lost; try again later.",
        service=SERVICE,
        status=status,
        method=method,
        code="medplum-unavailable",
        maybe_done=maybe_done and method not in READS,
    )


def _busy(method: str, response: httpx.Response) -> TransientError:
    status, now = response.status_code, time.time()
    error = _transient(method, status, maybe_done=status != 429)
    if status == 429:  # every answer reports the rest of the quota
        error.retry_after = seconds_until_filled(response.headers, now=now)
    else:
        error.retry_after = read_retry_after(response.headers.get("Retry-After"), now=now)
    return error


def unreadable(text: str, method: str, *, status: int | None = None) -> TransientError:
    """The error for an answer that is not what was asked for: a write may have been done."""
    code, maybe_done = "unreadable-answer", method not in READS
    return TransientError(text, service=SERVICE, status=status, method=method, code=code, maybe_done=maybe_done)


def refused(status: int | None, method: str, path: str) -> AuthError:
    """The error for a 401 or 403."""
    word = "login" if status == 401 else "rights"
    return AuthError(
        f"Medplum refused the {word} of this client for {method} {path}.",
        code="medplum-login-refused" if word == "login" else "medplum-rights-missing",
    )


@contextmanager
def named(method: str, path: str, *, is_bulk: bool) -> Iterator[None]:
    """pymedplum's exceptions as ours, with a path template and without the server's words.

    If ``is_bulk``, with the codes that the bulk sync documents.
    """
    try:
        yield
    except (BotError, refusals.MedplumError, TimeoutError, *_NO_JSON) as fault:
        error = fault if isinstance(fault, BotError) else _named(fault, method, path)
        if isinstance(error, ServiceError):
            error.method, error.path = method, path
            if is_bulk and error.code == "medplum-unavailable":
                error.code = "try-again-later" if error.status else "answer-lost"
        elif is_bulk and error.code == "medplum-rights-missing":
            error.code = "medplum-rights-refused"
        if error is fault:
            raise
        raise error from fault


def _named(fault: Exception, method: str, path: str) -> BotError:
    if isinstance(fault, refusals.NotFoundError):
        return InputError(f"Medplum has no {path}, or this bot may not read it.", code="not-found")
    if isinstance(fault, refusals.AuthenticationError | refusals.AuthorizationError):
        return refused(fault.status_code, method, path)
    if isinstance(fault, refusals.ConflictError | refusals.PreconditionFailedError):
        text = f"{path} was changed during the call; try again."
        return TransientError(text, service=SERVICE, status=fault.status_code, code="edit-conflict")
    if isinstance(fault, refusals.TokenRefreshCooldownError | TimeoutError):
        text, seconds = "Medplum issued no token a moment ago; try again later.", getattr(fault, "retry_after", None)
        return TransientError(text, service=SERVICE, code="medplum-unavailable", retry_after=seconds)
    if not isinstance(fault, refusals.MedplumError):
        return unreadable("Medplum did not answer with JSON; try again later.", method)
    if isinstance(fault.__cause__, httpx.HTTPStatusError):
        # pymedplum names a refused token request so, and nothing else.
        text = "Medplum refused the login: check MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET."
        return AuthError(text, code="medplum-login-refused")
    text = f"Medplum refused {method} {path} with status {fault.status_code}."
    return PermanentError(text, service=SERVICE, status=fault.status_code, code="refused-by-medplum")
