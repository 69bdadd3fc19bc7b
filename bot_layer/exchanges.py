"""What the clients sent and received during one call of a bot, kept for a case that replays it; off by default.

The clients report every request here, as they do in ``bot_layer.spans``. Headers that carry a login are never kept,
and neither is the body of a form, in which logins are sent. Anything else may be a person's data: encrypt a tape.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import requests

from bot_layer.fhir.json import Json

LARGEST_BODY: Final = 256 * 1024
LARGEST_TAPE: Final = 1024 * 1024
_HEADERS: Final = ("Content-Type", "Content-Location", "ETag", "Location", "Retry-After")


@dataclass
class Tape:
    """The exchanges of one call in their order. ``is_whole`` is False where one was too large to be kept."""

    exchanges: list[Json] = field(default_factory=list, repr=False)
    is_whole: bool = True
    _left: int = LARGEST_TAPE

    def add(
        self,
        method: str,
        url: str,
        *,
        path: str = "",
        sent: bytes | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        received: bytes | bytearray = b"",
    ) -> None:
        """Keep one exchange. ``path`` is the template of the URL; without a ``status`` no answer came."""
        if max(len(sent or b""), len(received)) > LARGEST_BODY:
            self.is_whole = False
            return
        kept = {
            "method": method,
            "url": url,
            "path": path,
            "sent": _body(sent),
            "status": status,
            "headers": {name: str(headers[name]) for name in _HEADERS if name in headers} if headers else {},
            "received": _body(received),
        }
        size = len(json.dumps(kept))
        if size > self._left:
            self.is_whole = False
        else:
            self._left -= size
            self.exchanges.append(kept)


_tape: ContextVar[Tape | None] = ContextVar("tape", default=None)


@contextmanager
def recorded() -> Iterator[Tape]:
    """A tape of everything that is sent and received within this context."""
    tape = Tape()
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def tape() -> Tape | None:
    """The tape of this context, if there is one."""
    return _tape.get()


@contextmanager
def copied(
    chunks: Iterator[bytes], response: requests.Response, path: str, *, sent: bytes | None
) -> Iterator[Iterator[bytes]]:
    """The chunks of an answer; the tape keeps those that are read."""
    kept = tape()
    if kept is None:
        yield chunks
        return
    received = bytearray()

    def tee() -> Iterator[bytes]:
        for chunk in chunks:
            if len(received) <= LARGEST_BODY:
                received.extend(chunk)
            yield chunk

    try:
        yield tee()
    finally:
        method, url = str(response.request.method), str(response.request.url)
        kept.add(
            method, url, path=path, sent=sent, status=response.status_code, headers=response.headers, received=received
        )


def _body(content: bytes | bytearray | None) -> Json | None:
    """The body as JSON can store it; None if it is empty."""
    if not content:
        return None
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}
