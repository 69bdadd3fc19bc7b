"""An HTTP POST that looks and fails as node-fetch does, with which Medplum calls bot hosts and hooks."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlsplit

NODE_FETCH_HEADERS = {
    "Accept": "*/*",
    "User-Agent": "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
    "Accept-Encoding": "gzip,deflate",
    "Connection": "keep-alive",
}


class FetchError(Exception):
    """No answer; the message is node-fetch's."""


@dataclass(frozen=True)
class Fetched:
    """Status and body of an answer, whatever the status."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300


def post(url: str, body: bytes, headers: dict[str, str], *, timeout: float | None = None) -> Fetched:
    """The answer of ``url``. Only plain HTTP: a sandbox calls nobody outside this machine by TLS."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise FetchError("Only absolute URLs are supported" if not parts.scheme else f"No plain HTTP: {parts.scheme}")
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.putrequest("POST", target or "/", skip_accept_encoding=True)
        for name, value in {**headers, **NODE_FETCH_HEADERS, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Fetched(response.status, _decoded(response))
    except ConnectionRefusedError as error:
        reason = f"connect ECONNREFUSED {parts.hostname}:{parts.port or 80}"
        raise FetchError(f"request to {url} failed, reason: {reason}") from error
    except TimeoutError as error:
        raise FetchError(f"network timeout at: {url}") from error
    except (HTTPException, OSError) as error:
        raise FetchError(f"request to {url} failed, reason: socket hang up") from error
    finally:
        connection.close()


def _decoded(response: HTTPResponse) -> bytes:
    raw = response.read()
    encoding = response.headers.get("Content-Encoding", "")
    if encoding == "gzip":
        return gzip.decompress(raw)
    return zlib.decompress(raw) if encoding == "deflate" else raw
