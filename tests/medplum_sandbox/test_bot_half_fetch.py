"""Calls to hosts and hooks fail in node-fetch's words; requests are read by their content type."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from medplum_sandbox.medplum.calls import Call, grouped
from medplum_sandbox.medplum.fetch import FetchError, post
from medplum_sandbox.medplum.outcomes import FhirError
from medplum_sandbox.medplum.world import Actor

NOBODY = Actor(project="p", membership={"id": "m", "profile": {"reference": "system"}}, profile={})


@contextmanager
def answering(body: bytes, encoding: str) -> Iterator[str]:
    """The URL of a server that answers one POST with that body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Encoding", encoding)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join(timeout=240)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("identity", b"text"), ("gzip", gzip.compress(b"text", mtime=0)), ("deflate", zlib.compress(b"text"))],
    ids=["identity", "gzip", "deflate"],
)
def test_a_compressed_answer_is_read(encoding: str, body: bytes) -> None:
    """Accept-Encoding says gzip and deflate, as node-fetch's does."""
    with answering(body, encoding) as url:
        assert post(f"{url}?a=1", b"{}", {}).body == b"text"


def test_a_host_that_does_not_answer_in_time_is_a_failure() -> None:
    """Only hooks have a limit; a Fission call waits without end."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        with pytest.raises(FetchError, match="network timeout at"):
            post(url, b"{}", {}, timeout=0.02)


@pytest.mark.parametrize(
    ("url", "text"),
    [("hook", "Only absolute URLs"), ("https://example.org/", "No plain HTTP: https"), ("http:///x", "No")],
)
def test_an_address_that_is_not_plain_http_is_not_called(url: str, text: str) -> None:
    """A sandbox talks to this machine."""
    with pytest.raises(FetchError, match=text):
        post(url, b"", {})


@pytest.mark.parametrize(
    ("kind", "body", "parsed"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("application/json-patch+json; charset=utf-8", b"[]", []),
        ("application/x-www-form-urlencoded", b"a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
        ("text/csv", b"a,b", {}),
        ("text/plain", b"a,b", "a,b"),
        ("x-application/hl7-v2+er7", b"MSH|", "MSH|"),
        ("application/octet-stream", b"\x00", {}),
        ("application/json", b"", {}),
        (None, b"a", {}),
    ],
)
def test_a_body_is_read_by_its_content_type(kind: str | None, body: bytes, parsed: object) -> None:
    """JSON, form, text; anything else is nothing."""
    headers = {"content-type": kind} if kind else {}
    assert Call("POST", "/", headers, body, NOBODY).parsed_body() == parsed


def test_json_that_is_none_is_refused() -> None:
    """With the recorded text."""
    with pytest.raises(FhirError) as refused:
        Call("POST", "/", {"content-type": "application/json"}, b"{", NOBODY).parsed_body()
    assert refused.value.outcome["issue"][0]["details"]["text"] == "Content could not be parsed"


def test_a_query_is_decoded_in_its_order() -> None:
    """A name that occurs twice has a list."""
    call = Call("GET", "/x?b=1&a=%7C&b=2", {}, b"", NOBODY)
    assert call.query == [("b", "1"), ("a", "|"), ("b", "2")]
    assert grouped(call.query) == {"b": ["1", "2"], "a": "|"}
