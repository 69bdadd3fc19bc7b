"""Whose address a login is counted for."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from bot_layer.federation.settings import Serving

SERVING = Serving("https://bots.clinic.example/federated", (), "k" * 32)
TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))


@pytest.mark.parametrize(
    ("address", "forwarded", "expected"),
    [
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", [" , "], "10.0.0.1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_a_header_counts_as_far_as_trusted_proxies_wrote_it(address: str, forwarded: list[str], expected: str) -> None:
    """What a caller wrote into it before the first trusted proxy counts for nothing."""
    assert replace(SERVING, trusted_proxies=TRUSTED).origin(address, forwarded) == expected


def test_without_trusted_proxies_the_connection_counts() -> None:
    """The default."""
    assert SERVING.origin("10.0.0.1", ["198.51.100.1"]) == "10.0.0.1"
