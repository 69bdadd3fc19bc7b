"""The listening server: uvicorn, with headers and body of an answer in one packet, and a timeout for idle connections.

An answer in two packets waits for the caller's delayed acknowledgement: measured behind a Medplum server, p50 was 61 ms
instead of 25 to 31.

uvicorn closes connections only if they are idle after an answer. A connection that sends nothing, incomplete headers or
an incomplete body, and a caller that never reads its answer would stay open forever, and headers may have any length.
``limit_concurrency`` only answers 503 to complete requests. https://www.uvicorn.org/settings/#timeouts
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# In seconds. All are below a minute, so that no incomplete request stays longer.
_HEAD_SECONDS: Final = 20.0
_BODY_SECONDS: Final = 30.0
_READ_SECONDS: Final = 45.0
_KEEP_ALIVE_SECONDS: Final = 45
_IDLE_SECONDS: Final = _KEEP_ALIVE_SECONDS + _HEAD_SECONDS / 2  # uvicorn closes it earlier if no byte arrives
_MOST_HEAD: Final = 65_536  # bytes of a request that are not its body: headers, chunk sizes, trailers
_OWN_FILES: Final = 128  # files and connections of the host itself, and calls that have just been accepted
_BACKLOG: Final = 64  # asyncio accepts this many connections at once before it checks the limit
_MOST_CONNECTIONS: Final = 1000
_log = logging.getLogger(__name__)


class Corked:
    """A transport that buffers what one task writes and sends it in one write."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep the bytes until the running task yields."""
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))

    def close(self) -> None:
        """Write the buffered bytes, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._transport.write(b"".join(waiting))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that sends short answers in one packet, limits headers, and closes idle connections.

    ``most_connections`` is shared by all connections of a process; more are closed as soon as they are accepted.
    """

    most_connections = _MOST_CONNECTIONS
    _head = 0
    _ending: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]  # the rest passes through
        if len(self.connections) > self.most_connections:
            transport.abort()
        self._end_after(_HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > _MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        self._require_clear_headers()
        super().on_headers_complete()
        self._end_if_late()

    def on_body(self, body: bytes) -> None:
        self._head -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0
        self._end_if_late()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._end_if_late()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(_READ_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._ending)
        _cancel(self._unread)

    def _require_clear_headers(self) -> None:
        """Raise ValueError, which is answered with 400, for headers that another server may read differently.

        httptools accepts any number of hosts. If a request asks for another protocol, it takes the body for that
        protocol, and would read it as the next request. https://www.rfc-editor.org/rfc/rfc9112#section-3.2
        """
        names = Counter(name for name, value in self.headers if (name, value) != (b"content-length", b"0"))
        is_old = self.parser.get_http_version() == "1.0"
        if names[b"host"] > 1 or not (names[b"host"] or is_old):
            raise ValueError("A request must name one host.")
        if self.parser.should_upgrade() and (names[b"content-length"] or names[b"transfer-encoding"]):
            raise ValueError("A request for another protocol must have no body.")

    def _end_if_late(self) -> None:
        """Start the time for what the newest request lacks. One that waits for earlier answers is not read."""
        if self.cycle.response_complete:
            self._end_after(_IDLE_SECONDS)
        else:
            self._end_after(_BODY_SECONDS if self.cycle.more_body and not self.pipeline else None)

    def _end_after(self, seconds: float | None) -> None:
        """Close the connection unless the request advances in this time, however slowly bytes arrive."""
        _cancel(self._ending)
        self._ending = None if seconds is None else self.loop.call_later(seconds, self._abort)

    def _abort(self) -> None:
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def most_connections(asked: int = _MOST_CONNECTIONS) -> int:
    """How many connections may be open at once: ``asked``, if the process may open that many files.

    Raises the process's own limit as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = asked + _OWN_FILES + _BACKLOG
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(asked, soft - _OWN_FILES - _BACKLOG))
    return asked


def config(app: Any, *, grace: int, connections: int = _MOST_CONNECTIONS) -> uvicorn.Config:
    """uvicorn as the host runs it. ``grace`` is how many seconds running calls have to end when it stops."""
    return uvicorn.Config(
        app,
        http=type("LimitedProtocol", (Protocol,), {"most_connections": connections}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust X-Forwarded-For from any process on this machine
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
        backlog=_BACKLOG,
    )


async def run(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve on a bound socket until the server exits."""
    asyncio.get_running_loop().set_exception_handler(quiet_accepts())
    await server.serve(sockets=[bound])


def quiet_accepts(clock: Callable[[], float] = time.monotonic, *, every: float = 60.0) -> Callable[..., None]:
    """An event loop's exception handler that reports once a minute, not once per attempt, that no connection is
    accepted.

    If no file can be opened, asyncio reports each of up to ``backlog`` attempts, every second.
    https://github.com/python/cpython/issues/127529
    """
    said: list[float] = []

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "accept" not in str(context.get("message", "")):
            loop.default_exception_handler(context)
            return
        if not said or clock() - said[-1] >= every:
            said[:] = [clock()]
            _log.error("No connection can be accepted: the process may open no more files; raise its limit (nofile).")

    return handle
