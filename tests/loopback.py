"""httpx to servers on loopback, without the system's certificates: to load them takes each client 30 ms."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

# A busy machine is no failure; a hanging request still ends.
_TIMEOUT = 120.0
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client(**options: Any) -> httpx.Client:
    """A client of httpx."""
    return httpx.Client(verify=_NO_CERTIFICATES, **{"timeout": _TIMEOUT, **options})


def request(method: str, url: str, **options: Any) -> httpx.Response:
    """The answer to one request."""
    return httpx.request(method, url, verify=_NO_CERTIFICATES, **{"timeout": _TIMEOUT, **options})


def get(url: str, **options: Any) -> httpx.Response:
    """The answer to a GET."""
    return request("GET", url, **options)


def post(url: str, **options: Any) -> httpx.Response:
    """The answer to a POST."""
    return request("POST", url, **options)
