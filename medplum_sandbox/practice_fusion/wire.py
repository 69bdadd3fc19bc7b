"""How faults are worded here, and files that are sent piece by piece."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from medplum_sandbox.faults import Fault
from medplum_sandbox.practice_fusion.jobs import Body
from medplum_sandbox.shell import Answer, cut_off

SHARED: Final = ("too_many", "server_error", "reset_before_write", "reset_after_write")


def refusal(fault: Fault, wait: str | None) -> Answer:
    """How this source words a fault; ``wait`` is its Retry-After."""
    status, code = (429, "throttled") if fault.kind == "too_many" else (fault.status, "exception")
    issue = {"severity": "error", "code": code, "diagnostics": "Try again later."}
    body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()
    headers = {"Retry-After": wait} if wait and status in {429, 503} else {}
    return Answer(status, body, "application/json", headers)


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
    """The first requested byte; only ``bytes=N-`` is understood, as a resuming client sends it."""
    if header is None or not header.startswith("bytes=") or not header.endswith("-"):
        return 0
    number = header[6:-1]
    return int(number) if number.isdigit() else 0
