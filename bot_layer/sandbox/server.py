"""A Starlette app on a loopback port, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = "127.0.0.1"
RESET_EXTENSION = "bot_layer.reset"


class ResettableProtocol(H11Protocol):
    """HTTP/1.1 whose requests carry a function that cuts the TCP connection without an answer.

    ASGI has no word for a connection that breaks; the fault switchboard needs one, because a lost answer is the case
    that creates people twice.
    """

    def handle_events(self) -> None:
        """Reads what came in, and hands each request's scope the way to cut its own connection."""
        super().handle_events()
        if self.scope is not None:
            self.scope.setdefault("extensions", {})[RESET_EXTENSION] = {"abort": self.transport.abort}


class Server:
    """An app that answers on ``http://127.0.0.1:PORT`` from ``start`` (or ``with``) until ``stop``."""

    def __init__(self, app: Any, *, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        self.base_url = f"http://{LOOPBACK}:{self.port}"
        config = uvicorn.Config(
            app,
            http=ResettableProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._server = _ThreadedServer(config)
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """The server itself, once it answers."""
        self._thread = threading.Thread(target=self._run, name=f"server-{self.port}", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(timeout=10) or not self._server.started:
            raise RuntimeError("The server did not start within ten seconds.")
        return self

    def stop(self) -> None:
        """Lets running requests end (two seconds at most), then frees the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _ThreadedServer(uvicorn.Server):
    """uvicorn's server, which says when it is ready. Outside the main thread it leaves the signal handlers alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, then tells whoever waits."""
        await super().startup(sockets=sockets)
        self.ready.set()
