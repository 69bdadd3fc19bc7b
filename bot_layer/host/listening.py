"""Listening: a uvicorn server in a thread of this process, on a loopback port that is known before it starts."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from typing import Self

import uvicorn

from bot_layer.errors import ConfigError
from bot_layer.host import listen

LOOPBACK = "127.0.0.1"
_START_SECONDS = 15
_TICK_SECONDS = 0.1


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 selects a free port. Raises ConfigError ``address-in-use``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as fault:
        bound.close()
        text = (
            f"Port {port} of {host} can't be used ({os.strerror(fault.errno or 0)}): choose another port with --port."
        )
        raise ConfigError(text, code="address-in-use") from fault
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def own_url(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """The URL by which a process on this machine reaches a server that listens on an address."""
    host, port = address[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ThreadedServer:
    """A server on ``http://127.0.0.1:PORT`` from ``start`` (or ``with``) until ``stop``.

    It binds the port, or gets a socket that is ``bound`` already: its caller then knows the port without losing it.
    """

    def __init__(self, config: uvicorn.Config, *, port: int = 0, bound: socket.socket | None = None) -> None:
        self._socket = bound or bind(LOOPBACK, port)
        self.port: int = self._socket.getsockname()[1]
        self.base_url = f"http://{LOOPBACK}:{self.port}"
        self._server = _Announced(config)
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start the server; returns once it answers."""
        self._thread = threading.Thread(target=self._run, name=f"server-{self.port}", daemon=True)
        self._thread.start()
        if not self._server.ready.wait(timeout=_START_SECONDS) or not self._server.started:
            raise RuntimeError(f"The server did not start within {_START_SECONDS} seconds.")
        return self

    def stop(self) -> None:
        """Let running requests finish within the config's graceful shutdown time, then free the port."""
        self._server.end()
        if self._thread is not None:
            self._thread.join(timeout=_START_SECONDS)
            self._thread = None
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(listen.run(self._server, self._socket))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Announced(uvicorn.Server):
    """uvicorn's server, which signals when it is ready and stops immediately if no request is running.

    uvicorn checks ten times a second whether to stop, and sleeps another tenth when it does: for the hundreds of
    servers of a test run, that adds minutes. Outside the main thread it installs no signal handlers.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Stop the server, from another thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then notify the waiting threads."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Tick like uvicorn's own loop, until ``end``."""
        tick = 0
        while not await self.on_tick(tick):
            tick = (tick + 1) % 864_000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout=_TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests as uvicorn does; if there are none, return immediately."""
        if self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for bound in sockets or []:
            bound.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)
