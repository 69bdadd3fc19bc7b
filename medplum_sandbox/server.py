"""A Starlette app on a loopback port, in a thread of this process."""

from __future__ import annotations

from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from medplum_sandbox.listening import ThreadedServer

RESET_EXTENSION = "medplum_sandbox.reset"


class ResettableProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests carry a function that cuts the TCP connection without an answer.

    ASGI has no word for a connection that breaks; the fault switchboard needs one, because a lost answer is the case
    that creates people twice.
    """

    def on_message_begin(self) -> None:
        """Adds to a request's scope a function that closes its connection."""
        super().on_message_begin()
        self.scope["extensions"] = {RESET_EXTENSION: {"abort": self.transport.abort}}


class Server(ThreadedServer):
    """An app that answers on ``http://127.0.0.1:PORT`` from ``start`` (or ``with``) until ``stop``."""

    def __init__(self, app: Any, *, port: int = 0) -> None:
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
        super().__init__(config, port=port)
