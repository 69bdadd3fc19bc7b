"""A bot with a limit of 60 seconds never waits 90 for a partner: real connections, with both HTTP libraries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bot_layer.bot.event import Event
from bot_layer.errors import TransientError
from bot_layer.http import deadline
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import connect


class Busy(BaseHTTPRequestHandler):
    """Answers every request with a wait of 90 seconds."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(503)
        self.send_header("Retry-After", "90")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is written."""


@pytest.fixture
def busy() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Busy,), {"asked": asked})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_partners_retry_after_beyond_the_deadline_is_not_waited_for(busy: tuple[str, list[str]]) -> None:
    """The policy by itself would wait five times 90 seconds."""
    url, asked = busy
    patient = Transport("Partner", RetryPolicy(retries=5, longest_wait=600))
    with deadline.within(60):
        answer = patient.send("GET", f"{url}/Patient/1", path="Patient/{id}")
    assert (answer.status, answer.retry_after(), len(asked)) == (503, 90.0, 1)


def test_nor_is_that_of_medplum(busy: tuple[str, list[str]]) -> None:
    """The same policy and deadline apply under pymedplum."""
    url, asked = busy
    settings = {"BOT_RETRIES": "5", "BOT_LONGEST_WAIT_SECONDS": "600"}
    server = connect(Event(f"{url}/", "token", None, secrets=settings))
    with deadline.within(60), pytest.raises(TransientError) as caught:
        server.read("Patient/1")
    assert (caught.value.retry_after, len(asked)) == (90.0, 1)


def test_medplum_is_not_asked_after_the_deadline(busy: tuple[str, list[str]]) -> None:
    """A request that was never sent cannot have been done."""
    url, asked = busy
    server = connect(Event(f"{url}/", "token", None))
    with deadline.within(0), pytest.raises(TransientError) as caught:
        server.create({"resourceType": "Patient"})
    assert (caught.value.maybe_done, asked) == (False, [])
