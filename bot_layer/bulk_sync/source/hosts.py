"""Which hosts a source may send the sync to: a server on the Internet must not reach into the operator's own network.

https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn
from urllib.parse import urljoin, urlsplit

from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.errors import PermanentError
from bot_layer.http import addresses

_NEAR: Final = frozenset({"loopback", "private"})
Resolve = Callable[[str], tuple[str, ...]]


class FileRefused(PermanentError):
    """What the source names cannot be fetched from there, now or later."""


class UnsafeAddress(FileRefused):
    """The source names an address to which nothing is sent."""

    default_code = "unsafe-address"


def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a name; none where this machine cannot tell (a proxy may resolve it)."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True)
class HostGuard:
    """Checks addresses that a source names. ``allowed`` are hosts that a setting names; ``source`` is its base."""

    source: str
    allowed: frozenset[str] = frozenset()
    resolve: Resolve = field(default=resolve, repr=False)
    _known: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self, url: str) -> None:
        """UnsafeAddress for an address without TLS, or on a network on which the source itself is not.

        The source's own host, and those that the operator named, may be anywhere.
        """
        scheme, host, _ = origin(url)
        networks = self._networks(host)
        if scheme != "https" and not networks <= _NEAR:
            _refuse("without https")
        self._require(host, networks)

    def check_peer(self, host: str, address: str) -> None:
        """The same for the address to which a connection was made: a name may lead elsewhere the second time."""
        self._require(host.lower().rstrip("."), frozenset({addresses.network(address)}))

    def _require(self, host: str, networks: frozenset[str]) -> None:
        own = origin(self.source)[1]
        if host.strip("[]") not in (own.strip("[]"), *self.allowed) and not networks <= {
            "public",
            *(self._networks(own) & _NEAR),
        }:
            _refuse("on a private network, where the source itself is not (PF_ALLOWED_HOSTS can allow the host)")

    def _networks(self, host: str) -> frozenset[str]:
        """The networks of all addresses of a host. A name that cannot be resolved here is nobody's private one."""
        where = addresses.network(host)
        if where != "name":
            return frozenset({where})
        with self._lock:
            known = self._known.get(host)
        if known is None:
            known = frozenset(addresses.network(each) for each in self.resolve(host)) or frozenset({"public"})
            with self._lock:
                self._known[host] = known
        return known


def origin(url: str) -> addresses.Origin:
    """Scheme, host and port of an address, as the connection will read it."""
    try:
        return addresses.origin(url)
    except ValueError:
        _refuse("that cannot be read")


def absolute(base: str, url: str) -> str:
    """An address that the source names, which may be relative; one that cannot be read stays, and is refused later.

    A server behind a gateway may not know that it is reached over TLS: its own host is reached as ``base`` is.
    """
    try:
        found, known = urlsplit(urljoin(base, url)), urlsplit(base)
        same_host = found.hostname == known.hostname and found.port in (None, 80)
    except ValueError:
        return url
    if (found.scheme, known.scheme) == ("http", "https") and same_host:
        found = found._replace(scheme="https", netloc=known.netloc)
    return found.geturl()


def shown(url: str) -> str:
    """An address as a log may hold it: without its query, which may be a permission, and without a login."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an address that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refuse(what: str) -> NoReturn:
    raise UnsafeAddress(f"The source names an address {what}; nothing is sent there.", service=SERVICE)
