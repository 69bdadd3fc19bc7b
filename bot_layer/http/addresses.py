"""Which addresses a request may go to, read exactly as the connection reads them, and URL paths made from templates.

An address that two parsers read differently (``http://evil.example\\@127.0.0.1/``) is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, quote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from bot_layer.errors import ConfigError, InputError
from bot_layer.fhir.references import RESOURCE_TYPE, is_id

Network = Literal["loopback", "private", "public", "special", "name"]
Origin = tuple[str, str, int]

_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")
# A backslash, white space, control characters and a user name are read differently by different parsers.
_AMBIGUOUS: Final = re.compile(r"[\\\s\x00-\x20\x7f]")
_PORTS: Final = {"https": 443, "http": 80}
_PRIVATE: Final = tuple(
    ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")


@dataclass(frozen=True)
class Path:
    """A URL path below a service's base. Errors and traces show its ``template``."""

    template: str
    text: str

    def __str__(self) -> str:
        return self.text


def path(template: str, /, **parameters: str) -> Path:
    """The template with its parameters filled in, so that no parameter can change the path.

    ``{id}`` must be a FHIR id and ``{type}`` a resource type; any other is quoted as one step. Raises InputError with
    code ``invalid-id`` for a value that cannot be one step of a path.
    """
    return Path(template, _PARAMETER.sub(lambda found: _step(found[1], parameters[found[1]]), template))


def query_of(url: str) -> list[tuple[str, str]]:
    """The query of a URL that a service names; nothing else of it is used, so that the host stays ours."""
    return parse_qsl(url.partition("#")[0].partition("?")[2], keep_blank_values=True)


def _step(name: str, value: str) -> str:
    if name in {"id", "version"} and is_id(value):
        return value
    if name == "type" and RESOURCE_TYPE.fullmatch(value):
        return value
    if name not in {"id", "version", "type"} and value not in {"", ".", ".."}:
        return quote(value, safe="", errors="replace")
    raise InputError(f"A stored {name} is not a valid id: correct it at its source.", code="invalid-id")


def parse(url: str) -> Url:
    """The parts of an absolute URL as the connection reads them; raises ValueError where it is ambiguous or none."""
    if _AMBIGUOUS.search(url) or not url.isascii():
        raise ValueError("The address has characters that an address cannot have.")
    try:
        parts = parse_url(url)
    except LocationParseError as fault:
        raise ValueError("The address cannot be read.") from fault
    if parts.scheme not in _PORTS or not parts.host or parts.auth is not None:
        raise ValueError("The address is not an http or https URL without a user name.")
    return parts


def origin(url: str) -> Origin:
    """Scheme, host and port of an address. Raises ValueError as ``parse``."""
    parts = parse(url)
    scheme = str(parts.scheme)
    return scheme, str(parts.host).lower().rstrip("."), parts.port or _PORTS[scheme]


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a gateway on the way may read in an IPv6 address: mapped, 6to4, NAT64 or compatible.

    https://www.rfc-editor.org/rfc/rfc6052#section-2.1, https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5
    """
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and (address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF)):
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inside


def network(host: str) -> Network:
    """The network of a host: an address of this machine, of a private network, of the Internet, or a name.

    ``special`` is what no service has: unspecified, link-local, documentation, multicast and reserved addresses.
    """
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost":
        return "loopback"
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return "name"
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    if address.is_loopback:
        return "loopback"
    if any(address.version == each.version and address in each for each in _PRIVATE):
        return "private"
    return "public" if address.is_global and not address.is_multicast else "special"


def is_https_or_loopback(url: str) -> bool:
    """Whether a URL is HTTPS, or HTTP on this machine."""
    try:
        scheme, host, _port = origin(url)
    except ValueError:
        return False
    return scheme == "https" or network(host) == "loopback"


def require_safe_url(url: str, service: str) -> None:
    """Raise ConfigError unless the URL is HTTPS, or HTTP on this machine or in a private network."""
    try:
        parts = parse(url)
    except ValueError as fault:
        raise _unsafe(service) from fault
    where = network(str(parts.host))
    if where == "special" or (parts.scheme == "http" and where not in {"loopback", "private"}):
        raise _unsafe(service)


def _unsafe(service: str) -> ConfigError:
    return ConfigError(
        f"Give {service} an https:// address; http:// is allowed for this machine only.", code="unsafe-address"
    )
