"""The server that every sandbox uses."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medplum_sandbox.server import RESET_EXTENSION, Server
from tests import loopback


def hello(request: Request) -> PlainTextResponse:
    """A word."""
    return PlainTextResponse("hello")


async def cut(request: Request) -> PlainTextResponse:
    """Nothing: the connection ends before the answer is written."""
    request.scope["extensions"][RESET_EXTENSION]["abort"]()
    return PlainTextResponse("too late")


APP = Starlette(routes=[Route("/", hello), Route("/cut", cut)])


def test_it_answers_on_a_free_loopback_port_until_it_is_stopped() -> None:
    """Port 0 picks a free port; after the stop, nothing listens there."""
    with Server(APP) as server:
        assert server.base_url == f"http://127.0.0.1:{server.port}"
        assert loopback.get(server.base_url).text == "hello"
    with pytest.raises(httpx.ConnectError):
        loopback.get(server.base_url)


def test_two_servers_run_at_once() -> None:
    """Each has its own port."""
    with Server(APP) as one, Server(APP) as other:
        assert one.port != other.port


def test_a_taken_port_is_refused_at_once() -> None:
    """The socket is bound before anything starts."""
    with Server(APP) as server, pytest.raises(OSError, match="Address already in use"):
        Server(APP, port=server.port)


def test_an_endpoint_can_cut_its_own_connection() -> None:
    """The client sees a closed connection and no answer; the next request is answered."""
    with Server(APP) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            loopback.get(f"{server.base_url}/cut")
        assert loopback.get(server.base_url).status_code == 200


def test_stopping_what_was_never_started_frees_the_port() -> None:
    """A sandbox whose set-up fails leaves no open socket."""
    server = Server(APP)
    server.stop()
    with Server(APP, port=server.port) as again:
        assert again.port == server.port
