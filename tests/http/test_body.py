"""The body of an answer: one that arrives too slowly is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import responses
from pymedplum import MedplumClient

from bot_layer.errors import TransientError
from bot_layer.http import transport
from bot_layer.http.body import pieces
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum import binary
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.wire import Wire as MedplumWire

URL = "https://partner.example/fhir/Patient/1"


@dataclass
class Trickle:
    """A clock, and a socket on which each read returns ``size`` bytes after ``seconds``."""

    size: int
    seconds: float
    now: float = 0.0
    raw: Trickle = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.raw = self

    def read1(self, _amount: int, **_options: bool) -> bytes:
        self.now += self.seconds
        return b" " * self.size

    def arrived(self, *, resting: float = 0.0) -> Iterator[int]:
        """What has arrived after each piece; the caller pauses in between."""
        total = 0
        for piece in pieces(self, clock=lambda: self.now):  # type: ignore[arg-type]  # what it uses of a response
            total += len(piece)
            self.now += resting
            yield total


def test_an_answer_that_only_trickles_is_ended_after_two_minutes() -> None:
    """One byte every ten seconds never causes a timeout by itself."""
    with pytest.raises(TimeoutError):
        assert all(total <= 12 for total in Trickle(size=1, seconds=10).arrived())


def test_a_slow_line_may_deliver_a_large_file() -> None:
    """At 2,000 bytes a second a file may take any time, and its reader's own work is no delay."""
    totals = Trickle(size=20_000, seconds=10).arrived(resting=600)
    assert any(total > 100_000_000 for total in totals)


@responses.activate
def test_each_client_reports_it_as_an_answer_that_was_lost() -> None:
    """A read may be tried again; after a write it is unknown whether it was done."""
    responses.get(URL, body=b"{}")
    responses.post(URL, body=b"{}")
    hours = iter(range(0, 10**6, 3600))
    late = lambda: float(next(hours))  # noqa: E731
    for method, maybe_done in (("GET", False), ("POST", True)):
        with pytest.raises(TransientError) as lost:
            transport.Transport("Partner", clock=late).send(method, URL, path="Patient/{id}")
        assert (lost.value.code, lost.value.maybe_done) == ("service-unreachable", maybe_done)
        with pytest.raises(TransientError) as lost:
            transport.Transport("Partner", clock=late, lost_code="answer-lost").send(method, URL, path="Patient/{id}")
        assert (lost.value.code, lost.value.maybe_done) == ("answer-lost", maybe_done)


@dataclass
class Broken(httpx.SyncByteStream):
    """A body that breaks after its first bytes, or never ends."""

    breaks: bool = True

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"resourceType":'
        while not self.breaks:
            yield b" "
        raise httpx.RemoteProtocolError("peer closed connection")


@pytest.mark.parametrize("breaks", [True, False])
def test_half_an_answer_of_medplum_is_a_lost_one(breaks: bool) -> None:
    """A read is repeated; after a write it is unknown whether it was done. Neither is a refusal."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(200, stream=Broken(breaks))

    hours = iter(range(0, 10**6, 3600))
    late = lambda: float(next(hours))  # noqa: E731
    http = httpx.Client(transport=MedplumWire(httpx.MockTransport(answer), late))
    client = MedplumClient("https://medplum.example/", access_token="t", http_client=http)
    server = Medplum(client, http, RetryPolicy(retries=2), wait=lambda _: None)
    with pytest.raises(TransientError) as lost:
        server.read("Patient/1")
    assert (lost.value.code, lost.value.maybe_done) == ("medplum-unavailable", False)
    with pytest.raises(TransientError) as lost:
        server.create({"resourceType": "Patient"})
    assert (lost.value.code, lost.value.maybe_done) == ("medplum-unavailable", True)
    assert asked == ["GET", "GET", "GET", "POST"]
    with pytest.raises(TransientError):
        list(binary.open_binary(server, "1").chunks())
