"""What the three look-alikes share: how they start and stop, what they keep of each request, and how faults strike.

The content of a look-alike is an ASGI app. ``Shell`` wraps it: it logs each request before anybody can
see the answer, and makes the faults happen that a test asked for. Each partner words a fault in its own way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Self

from starlette.datastructures import Headers

from medplum_sandbox.faults import KINDS, Fault, Faults
from medplum_sandbox.server import RESET_EXTENSION, Server

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
_CUTS = ("reset_before_write", "reset_after_write")
_SWALLOWS = ("reset_after_write", "empty_body")


@dataclass(frozen=True)
class Answer:
    """Status, body and the headers beyond the usual ones."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RequestRecord:
    """One request as it came, and the status that it was answered with (0: the connection was cut).

    ``host`` tells the ports of one look-alike apart. Of an Authorization header only that there was one is kept.
    """

    method: str
    path: str
    query: str
    status: int
    host: str = ""
    authorized: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class RequestLog:
    """The requests so far, in the order of their answers."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []
        self._lock = threading.Lock()

    def add(self, scope: Scope, status: int, *, host: str = "") -> None:
        """Keeps one request."""
        headers = Headers(scope=scope)
        shown = {name: value for name, value in headers.items() if name != "authorization"}
        query = scope.get("query_string", b"").decode("latin-1")
        authorized = "authorization" in headers
        record = RequestRecord(scope["method"], scope["path"], query, status, host, authorized, shown)
        with self._lock:
            self._records.append(record)

    def all(self) -> list[RequestRecord]:
        """A copy of the requests so far."""
        with self._lock:
            return list(self._records)

    def clear(self) -> None:
        """Deletes the requests so far."""
        with self._lock:
            self._records.clear()


class Shell:
    """ASGI middleware before the app of a look-alike.

    ``refuse`` words the answer to a fault in place of the app's own, or gives None where the fault passes by.
    """

    def __init__(
        self,
        app: Any,
        *,
        log: RequestLog,
        faults: Faults,
        refuse: Callable[[Fault, Scope], Answer | None],
        kinds: Iterable[str] = KINDS,
        host: str = "",
    ) -> None:
        self._app = app
        self._log = log
        self._faults = faults
        self._refuse = refuse
        self._kinds = tuple(kind for kind in kinds if kind != "slow")
        self._host = host

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answers one request."""

        async def recording(message: Message) -> None:
            # Logged before it is sent: a caller that has the response finds the request in the log.
            if message["type"] == "http.response.start":
                self._log.add(scope, message["status"], host=self._host)
            await send(message)

        method, path = scope["method"], scope["path"]
        slow = self._faults.strike(method, path, ("slow",))
        if slow is not None:
            await asyncio.sleep(slow.seconds)
        fault = self._faults.strike(method, path, self._kinds)
        if fault is None:
            await self._app(scope, receive, recording)
        elif fault.kind in _CUTS or fault.kind in _SWALLOWS:
            await self._lose(fault, scope, receive, recording)
        elif (answer := self._refuse(fault, scope)) is not None:
            await give(answer, recording)
        else:
            await self._app(scope, receive, recording)

    async def _lose(self, fault: Fault, scope: Scope, receive: Any, send: Any) -> None:
        """The answer, or all of the connection, is lost; the request may have been carried out before."""
        head: Message = {"status": 200, "headers": []}

        async def swallow(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)

        if fault.kind in _SWALLOWS:
            await self._app(scope, receive, swallow)
        if fault.kind in _CUTS:
            self._log.add(scope, 0, host=self._host)
            await cut_off(scope, receive)
            return
        kind = next((value.decode() for name, value in head["headers"] if name == b"content-type"), "text/plain")
        await give(Answer(head["status"], b"", kind), send)


async def give(answer: Answer, send: Any) -> None:
    """Sends an answer without asking the app."""
    headers = {"content-type": answer.content_type, "content-length": str(len(answer.body)), **answer.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body})


async def cut_off(scope: Scope, receive: Any, *, seconds: float = 0.0) -> None:
    """Closes the connection: no response follows, or no more of it.

    During ``seconds`` the transport still sends what it has: a client then sees half a file. This function waits for
    the connection's end, because the server takes an app that returns in the middle of an answer for a broken one.
    """
    cut: Callable[[], Any] = scope["extensions"][RESET_EXTENSION]["abort"]
    asyncio.get_running_loop().call_later(seconds, cut)
    while (await receive())["type"] != "http.disconnect":
        pass


class LookAlike:
    """A server on loopback from ``start`` (or ``with``) until ``stop``; a subclass gives it its content."""

    _server: Server

    def start(self) -> Self:
        """The look-alike itself, once it answers."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Ends it and frees the port."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
