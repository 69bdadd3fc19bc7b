"""Between the socket and the answers: what came in is kept, faults strike, and files are sent piece by piece."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medplum_sandbox.faults import Faults
from medplum_sandbox.practice_fusion.jobs import Body
from medplum_sandbox.server import RESET_EXTENSION

_SHARED: Final = ("too_many", "server_error", "reset_before_write", "reset_after_write")


@dataclass(frozen=True)
class Seen:
    """One request as it came in, and the status of its answer (0: the connection was cut)."""

    host: str
    method: str
    path: str
    query: str
    status: int
    authorized: bool  # an Authorization header came along; its value is not kept
    headers: dict[str, str]


@dataclass
class Record:
    """All requests so far, in the order of their answers."""

    seen: list[Seen] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, scope: Scope, host: str, status: int) -> None:
        """Keeps one request."""
        headers = {name: value for name, value in Headers(scope=scope).items() if name != "authorization"}
        authorized = "authorization" in Headers(scope=scope)
        query = scope["query_string"].decode()
        with self._lock:
            self.seen.append(Seen(host, scope["method"], scope["path"], query, status, authorized, headers))

    def clear(self) -> None:
        """Forgets all requests."""
        with self._lock:
            self.seen.clear()


class Front:
    """An ASGI app around another: records each request and lets the shared faults strike."""

    def __init__(
        self, app: ASGIApp, *, host: str, record: Record, faults: Faults, wait: Callable[[], str | None]
    ) -> None:
        self._app = app
        self._host = host
        self._record = record
        self._faults = faults
        self._wait = wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def sending(message: Message) -> None:
            # Kept before it is sent: whoever has the answer finds the request in the record.
            if message["type"] == "http.response.start":
                self._record.add(scope, self._host, message["status"])
            await send(message)

        await self._answer(scope, receive, sending)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        slow = self._faults.strike(method, path, ("slow",))
        if slow is not None:
            await asyncio.sleep(slow.seconds)
        fault = self._faults.strike(method, path, _SHARED)
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "too_many":
            await self._problem(429, "throttled")(scope, receive, send)
        elif fault.kind == "server_error":
            await self._problem(fault.status, "exception")(scope, receive, send)
        else:
            if fault.kind == "reset_after_write":
                await self._app(scope, receive, _nowhere)
            self._record.add(scope, self._host, 0)
            await cut_off(scope, receive)

    def _problem(self, status: int, code: str) -> JSONResponse:
        wait = self._wait() if status in {429, 503} else None
        issue = {"severity": "error", "code": code, "diagnostics": "Try again later."}
        body = {"resourceType": "OperationOutcome", "issue": [issue]}
        return JSONResponse(body, status_code=status, headers={"Retry-After": wait} if wait else {})


@dataclass(frozen=True)
class FileAnswer:
    """Sends a file piece by piece; whole or from a byte on, gzipped, or cut off in the middle."""

    body: Body
    content_type: str
    gzip: bool = False
    ranges: bool = False
    broken: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request for the file."""
        start = _range_start(Headers(scope=scope).get("range")) if self.ranges else 0
        if start >= self.body.size > 0:
            await JSONResponse({}, 416, {"Content-Range": f"bytes */{self.body.size}"})(scope, receive, send)
            return
        zipped = self.gzip and start == 0 and "gzip" in Headers(scope=scope).get("accept-encoding", "")
        await send(
            {"type": "http.response.start", "status": 206 if start else 200, "headers": self._head(start, zipped)}
        )
        pieces = self.body.read(start)
        if self.broken:
            pieces = _half(pieces, (self.body.size - start) // 2)
        async for piece in _pass(_zipped(pieces) if zipped else pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.broken:
            await cut_off(scope, receive, seconds=0.05)
            return
        await send({"type": "http.response.body", "body": b""})

    def _head(self, start: int, zipped: bool) -> list[tuple[bytes, bytes]]:
        head = {"content-type": self.content_type}
        if zipped:
            head["content-encoding"] = "gzip"
        else:
            head["content-length"] = str(self.body.size - start)
        if self.ranges:
            head["accept-ranges"] = "bytes"
        if start:
            head["content-range"] = f"bytes {start}-{self.body.size - 1}/{self.body.size}"
        return [(name.encode(), value.encode()) for name, value in head.items()]


async def cut_off(scope: Scope, receive: Receive, *, seconds: float = 0.0) -> None:
    """Cuts the connection: no answer, or the rest of it, will come.

    In the ``seconds`` before, what was handed to the transport goes out: a client then sees half a file. This waits for
    the connection's end, because the server takes an app that returns in the middle of an answer for a broken one.
    """
    cut: Callable[[], Any] = scope["extensions"][RESET_EXTENSION]["abort"]
    asyncio.get_running_loop().call_later(seconds, cut)
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nowhere(_message: Message) -> None:
    """The answer is lost."""


async def _pass(pieces: Iterator[bytes]) -> Any:
    """The pieces; other requests get a turn between them."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


def _half(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        if size <= 0:
            return
        yield piece[:size]
        size -= len(piece)


def _zipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for piece in pieces:
        packed = packer.compress(piece)
        if packed:
            yield packed
    yield packer.flush()


def _range_start(header: str | None) -> int:
    """The first byte asked for; only ``bytes=N-`` is understood, as a resuming client sends it."""
    if header is None or not header.startswith("bytes=") or not header.endswith("-"):
        return 0
    number = header[6:-1]
    return int(number) if number.isdigit() else 0
