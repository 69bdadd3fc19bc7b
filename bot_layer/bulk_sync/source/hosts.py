"""Which hosts a source may direct the sync to: a server on the Internet must not reach the operator's own network.

https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn
from urllib.parse import urljoin, urlsplit

from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.errors import PermanentError
from bot_layer.http import addresses

_NEAR: Final = frozenset({"loopback", "private"})


class UnsafeAddress(PermanentError):
    """The source names a URL that the sync must not call."""

    default_code = "unsafe-address"


def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a host name; empty if this machine cannot resolve it (a proxy may)."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True)
class HostGuard:
    """Checks URLs that a source names. ``allowed`` are hosts from a setting; ``source`` is the source's base URL."""

    source: str
    allowed: frozenset[str] = frozenset()
    resolve: Callable[[str], tuple[str, ...]] = field(default=resolve, repr=False)
    _known: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)

    def check(self, url: str) -> None:
        """UnsafeAddress for a URL without TLS, or on a private network that the source is not on.

        The source's own host, and those that the operator allowed, may be on any network.
        """
        scheme, host, _ = origin(url)
        networks = self._networks(host)
        if scheme != "https" and not networks <= _NEAR:
            _refuse("without https")
        self._require(host, networks)

    def check_peer(self, host: str, address: str) -> None:
        """The same check for the address of an open connection: a name may resolve differently the second time."""
        self._require(host.lower().rstrip("."), frozenset({addresses.network(address)}))

    def _require(self, host: str, networks: frozenset[str]) -> None:
        own = origin(self.source)[1]
        if host.strip("[]") in (own.strip("[]"), *self.allowed):
            return
        if not networks <= {"public", *(self._networks(own) & _NEAR)}:
            _refuse("on a private network, where the source itself is not (PF_ALLOWED_HOSTS can allow the host)")

    def _networks(self, host: str) -> frozenset[str]:
        """The networks of all addresses of a host. A name that cannot be resolved here does not count as private."""
        where = addresses.network(host)
        if where != "name":
            return frozenset({where})
        if host not in self._known:
            found = frozenset(addresses.network(each) for each in self.resolve(host))
            self._known[host] = found or frozenset({"public"})
        return self._known[host]


def origin(url: str) -> addresses.Origin:
    """Scheme, host and port of a URL, as the connection will parse it."""
    try:
        return addresses.origin(url)
    except ValueError:
        _refuse("that cannot be read")


def absolute(base: str, url: str) -> str:
    """The absolute form of a URL that the source names; an invalid one is returned unchanged, and refused later.

    A server behind a gateway may not know that it is reached over TLS: its own host gets the scheme of ``base``.
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
    """A URL for the log: without its query, which may grant access, and without a login."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an address that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refuse(what: str) -> NoReturn:
    raise UnsafeAddress(f"The source names an address {what}; nothing is sent there.", service=SERVICE)
