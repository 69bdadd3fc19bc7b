"""What a client can do to the host before any login is limited in size, time and number."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from bot_layer.errors import InputError
from bot_layer.host import listen
from bot_layer.host.envelope import read_envelope, read_login
from tests.host.world import TokenServer, hosted

HEAD = b"POST /bot-b HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n"


class Loop:
    """The part of an event loop that a connection uses: a test advances the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []
        self.real = asyncio.new_event_loop()

    def call_later(self, seconds: float, work: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self.now + seconds, work, args, self.real)
        self.timers.append(timer)
        return timer

    def call_soon(self, work: Callable[..., Any], *args: Any) -> None:
        work(*args)

    def create_task(self, coroutine: Any) -> Any:
        coroutine.close()
        return asyncio.Future(loop=self.real)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for timer in [each for each in self.timers if each.when() <= self.now]:
            self.timers.remove(timer)
            if not timer.cancelled():
                timer._run()


class Transport:
    """A connection that remembers whether it was ended."""

    def __init__(self) -> None:
        self.ended = False
        self.written = b""

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def get_extra_info(self, _name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def resume_reading(self) -> None:
        """Reads all the time."""

    close = abort
    pause_reading = resume_reading


def connected(*, connections: int = 10) -> tuple[Loop, Transport, Any]:
    """A connection that has just been accepted."""
    loop, transport = Loop(), Transport()
    config = listen.config(Starlette(), grace=1, connections=connections)
    config.load()
    state = uvicorn.Server(config).server_state
    protocol: Any = config.http_protocol_class(config=config, server_state=state, app_state={}, _loop=loop)  # type: ignore[call-arg]
    protocol.connection_made(transport)
    return loop, transport, protocol


def test_a_connection_that_never_sends_is_ended() -> None:
    """A silent connection is ended within a minute."""
    loop, transport, _ = connected()
    loop.pass_time(19)
    assert not transport.ended
    loop.pass_time(2)
    assert transport.ended


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"\r\n", HEAD + b"\r\n12345"], ids=["head", "no-body", "half-a-body"])
def test_an_unfinished_request_is_ended_however_it_trickles(sent: bytes) -> None:
    """An incomplete head or body is closed within a minute, even if one byte arrives each second."""
    loop, transport, protocol = connected()
    seconds = 0
    for byte in range(len(sent)):
        protocol.data_received(sent[byte : byte + 1])
    while not transport.ended:
        seconds += 1
        loop.pass_time(1)
    assert seconds <= 60


def test_a_trickling_head_is_ended() -> None:
    """Bytes that keep arriving do not keep an incomplete head open."""
    loop, transport, protocol = connected()
    for seconds in range(60):
        protocol.data_received(b"G" if seconds == 0 else b"x")
        loop.pass_time(1)
        if transport.ended:
            break
    assert transport.ended


def test_a_complete_request_may_take_its_time() -> None:
    """While a bot works nothing ends the connection: its timeout is the host's own affair."""
    loop, transport, protocol = connected()
    protocol.data_received(HEAD + b"\r\n1234567890")
    loop.pass_time(600)
    assert not transport.ended


def test_a_caller_that_reads_no_answer_is_ended() -> None:
    """If the client does not read an answer, its connection is closed in less than a minute."""
    loop, transport, protocol = connected()
    protocol.data_received(HEAD + b"\r\n1234567890")
    protocol.pause_writing()
    loop.pass_time(30)
    protocol.resume_writing()
    loop.pass_time(600)
    assert not transport.ended
    protocol.pause_writing()
    loop.pass_time(59)
    assert transport.ended


ENDLESS = {
    "a header": b"GET / HTTP/1.1\r\nHost: h\r\nX: ",
    "headers": b"GET / HTTP/1.1\r\nHost: h\r\n",
    "the address": b"GET /",
    "trailers": b"POST /bot-b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
}
MORE = {"headers": b"X: y\r\n" * 200, "trailers": b"X: y\r\n" * 200}


@pytest.mark.parametrize("kind", ENDLESS)
def test_request_lines_and_headers_are_limited_too(kind: str) -> None:
    """A request line, headers or trailers that never end are refused after 64 kB, before they fill the memory."""
    _, transport, protocol = connected()
    protocol.data_received(ENDLESS[kind])
    sent = 0
    while not transport.ended and sent < 1_000_000:
        protocol.data_received(MORE.get(kind, b"a" * 1200))
        sent += 1200
    assert 60_000 < sent < 70_000
    assert b"400 Bad Request" in transport.written


def test_a_long_body_in_chunks_is_no_header() -> None:
    """What counts as header is what frames the body, not the body."""
    _, transport, protocol = connected()
    protocol.data_received(b"POST /bot-b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(100):
        protocol.data_received(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
    assert not transport.ended


def test_requests_sent_ahead_of_their_answers_wait_without_a_limit_of_time() -> None:
    """A second request on a connection waits for the first one's bot, and for its own."""
    loop, transport, protocol = connected()
    protocol.data_received((HEAD + b"\r\n1234567890") * 2)
    protocol.cycle.response_complete, first = False, protocol.cycle
    loop.pass_time(600)
    assert protocol.pipeline and not transport.ended
    protocol.on_response_complete()
    assert protocol.cycle is first and not protocol.pipeline
    loop.pass_time(600)
    assert not transport.ended


def test_a_request_sent_ahead_has_a_limit_of_time_for_its_body_once_it_is_read() -> None:
    """An incomplete second request does not end the first one's bot, and does not stay open after its answer."""
    loop, transport, protocol = connected()
    protocol.data_received(HEAD + b"\r\n1234567890" + HEAD + b"\r\n123")
    loop.pass_time(600)
    assert not transport.ended
    protocol.on_response_complete()
    loop.pass_time(29)
    assert not transport.ended
    loop.pass_time(2)
    assert transport.ended


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", False),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", False),
        (b"GET /healthz HTTP/1.0\r\n\r\n", True),
        (HEAD + UPGRADE + b"\r\n1234567890", False),
        (b"POST /bot-b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + UPGRADE + b"\r\n", False),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + UPGRADE + b"\r\n", True),
        (b"POST /bot-b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n" + UPGRADE + b"\r\n", True),
        (b"POST /bot-b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    ],
    ids=[
        "no-host",
        "two-hosts",
        "http-1.0",
        "upgrade-body",
        "upgrade-chunks",
        "upgrade",
        "upgrade-empty",
        "two-lengths",
    ],
)
def test_a_request_that_two_servers_may_read_differently_is_refused(sent: bytes, accepted: bool) -> None:
    """No body is read as another request, whatever a proxy before the host makes of the headers."""
    _, transport, protocol = connected()
    protocol.data_received(sent)
    assert (b"400 Bad Request" not in transport.written, protocol.cycle is not None) == (accepted, accepted)


def test_there_is_a_limit_on_connections() -> None:
    """One connection more than the limit is closed at once; when one has ended, the next is served."""
    _, _, protocol = connected(connections=1)
    config, state = protocol.config, protocol.server_state
    second = Transport()
    other: Any = config.http_protocol_class(config=config, server_state=state, app_state={}, _loop=Loop())
    other.connection_made(second)
    assert second.ended
    other.connection_lost(None)
    protocol.connection_lost(None)
    third = Transport()
    config.http_protocol_class(config=config, server_state=state, app_state={}, _loop=Loop()).connection_made(third)
    assert not third.ended


def test_after_an_answer_an_idle_connection_is_kept_for_less_than_a_minute() -> None:
    """A caller may reuse its connection for a while, and an incomplete second request does not extend that."""
    with TokenServer().server as medplum:
        server = TokenServer()
        server.server = medplum
        with hosted(server) as (_, host), socket.create_connection(("127.0.0.1", host.port)) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            assert raw.recv(65536).endswith(b"}")
            protocol: Any = next(iter(host._server.server_state.connections))
            assert protocol.cycle.response_complete
            ending = min(protocol.timeout_keep_alive_task.when(), protocol._ending.when())
            assert protocol._ending.when() - protocol.loop.time() < 60
            assert ending - protocol.loop.time() < 60


def test_a_failed_accept_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """If no file can be opened, asyncio reports every attempt: the log has one line a minute."""
    now = [0.0]
    handle = listen.quiet_accepts(lambda: now[0])
    loop = asyncio.new_event_loop()
    context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            handle(loop, context)
        assert len(caplog.records) == 1
        now[0] = 60.0
        handle(loop, context)
        assert len(caplog.records) == 2
        handle(loop, {"message": "Task exception was never retrieved"})
        assert len(caplog.records) == 3
    loop.close()


def test_a_process_that_may_open_few_files_takes_fewer_connections() -> None:
    """The limit on connections reserves the files that the host itself needs."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); "
        "from bot_layer.host.listen import most_connections; print(most_connections(1000), most_connections(50))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    most, few = map(int, result.stdout.split())
    assert (0 < most < 400 - 64, few) == (True, 50)


def test_a_caller_that_hangs_up_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A client that disconnects in the middle of a body is not an error of the host."""
    server = TokenServer()
    with caplog.at_level(logging.DEBUG), server.server, hosted(server) as (client, host):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", host.port)) as raw:
                raw.sendall(HEAD + b"\r\n12")
        assert client.get("/healthz").status_code == 200
    assert "Exception in ASGI" not in caplog.text


def test_the_login_is_read_without_building_the_rest() -> None:
    """A body of 15 MB whose login is not good costs little more than itself."""
    script = (
        "import resource, sys; from bot_layer.host.envelope import read_login\n"
        'body = b\'{"baseUrl":"u","input":[\' + b\'[],\' * 5_000_000 + b\'[]],"accessToken":"t"}\'\n'
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_login(body) == {'baseUrl': 'u', 'accessToken': 't'}\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert int(result.stdout) < 25


@pytest.mark.parametrize(
    "body",
    [
        b'{"accessToken":"good","baseUrl":"u","accessToken":"other"}',
        b'{"accessToken":"good","baseUrl":"u","baseUrl":"v"}',
    ],
)
def test_an_event_with_two_logins_is_refused_or_read_consistently(body: bytes) -> None:
    """The admitted login is the one that runs, whichever of two members a parser uses."""
    login = read_login(body)
    try:
        envelope = read_envelope(body, login)
    except InputError:
        return
    assert {name: envelope[name] for name in ("baseUrl", "accessToken")} == {
        name: login[name] for name in ("baseUrl", "accessToken")
    }


def test_a_login_that_the_rest_contradicts_is_refused() -> None:
    """The envelope that runs is the one that was admitted."""
    with pytest.raises(InputError):
        read_envelope(b'{"accessToken":"other","baseUrl":"u"}', {"accessToken": "good", "baseUrl": "u"})


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDC00", "\\\\ud83d"])
def test_half_a_surrogate_pair_does_not_hide_the_login(half: str) -> None:
    """JSON may carry one anywhere."""
    body = f'{{"input":"a{half}b","baseUrl":"u","accessToken":"t"}}'.encode()
    assert read_login(body) == {"baseUrl": "u", "accessToken": "t"}
    assert json.loads(body)["baseUrl"] == "u"
