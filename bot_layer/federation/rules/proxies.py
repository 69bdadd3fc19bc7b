"""The address of a caller behind proxies: a header is believed only as far as trusted proxies wrote it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def origin(address: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that the nearest trusted proxy saw; the connection's own where that is no trusted proxy.

    ``forwarded`` are the values of X-Forwarded-For. Each proxy adds the address that it was called from at the end, so
    the list is read from there, for as long as the addresses are of trusted proxies.
    """
    hops = [hop.strip() for value in forwarded for hop in value.split(",") if hop.strip()]
    current = address
    while hops and _is_trusted(current, trusted):
        current = hops.pop()
    return current[:64]


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(known.version == network.version and known in network for network in trusted)
