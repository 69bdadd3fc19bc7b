"""The address of a caller behind proxies: only the part of the header that trusted proxies wrote is trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def origin(address: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The client address that the outermost trusted proxy saw, or the connection's own if it is not a trusted proxy.

    ``forwarded`` are the values of X-Forwarded-For. Each proxy appends the address of its caller, so the list is read
    from the end while the addresses belong to trusted proxies.
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
