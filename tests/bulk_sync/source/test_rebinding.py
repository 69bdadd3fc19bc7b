"""DNS rebinding: a name that resolves to a public address when it is checked, and to another one when it is called.

https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.hosts import UnsafeAddress
from bot_layer.errors import BotError

PUBLIC, HERE = "8.8.8.8", "127.0.0.1"


@dataclass
class Names:
    """A DNS whose answer for ``rebinds`` changes after the first question. No question leaves this machine."""

    rebinds: str
    asked: list[str] = field(default_factory=list)

    def getaddrinfo(self, host: str, port: int | None, *_: Any, **__: Any) -> list[Any]:
        """The address of a name, as ``socket.getaddrinfo`` gives it."""
        self.asked.append(host)
        address = HERE if host == self.rebinds and self.asked.count(host) > 1 else PUBLIC
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]


@contextmanager
def service() -> Iterator[tuple[int, list[bytes]]]:
    """The port of a service on this machine, and what each of its connections sent first."""
    received: list[bytes] = []
    with closing(socket.create_server((HERE, 0))) as listening:

        def serve() -> None:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                received.append(connection.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], received
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def fetch(port: int, allowed: tuple[str, ...] = ()) -> None:
    """Download a file that a public source names on another public host."""
    settings = SyncSettings("https://ehr.example/fhir", "c", "s", allowed_hosts=allowed)
    client = PracticeFusion(settings, wait=lambda _: None, tries=1)
    file = ExportFile("output", "Patient", f"https://files.example:{port}/1.ndjson")
    list(client.files.chunks(file, requires_token=False))


def test_a_name_that_points_to_this_machine_once_it_was_checked_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the open connection is checked again, before the first byte is sent on it."""
    names = Names("files.example")
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    with service() as (port, received), pytest.raises(UnsafeAddress) as caught:
        fetch(port)
    assert names.asked == ["files.example", "ehr.example", "files.example"]
    assert caught.value.code == "unsafe-address"
    assert received in ([], [b""])


def test_a_host_that_the_operator_allows_may_be_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same connection, to show that only the check kept it from being used: the service gets a TLS greeting."""
    monkeypatch.setattr(socket, "getaddrinfo", Names("files.example").getaddrinfo)
    with service() as (port, received), pytest.raises(BotError) as caught:
        fetch(port, allowed=("files.example",))
    assert not isinstance(caught.value, UnsafeAddress)
    assert received[0].startswith(b"\x16\x03")
