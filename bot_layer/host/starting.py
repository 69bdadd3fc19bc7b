"""What a host reads and checks at its start: its own settings, its address and keys, and its pinned projects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final

from bot_layer.errors import ConfigError
from bot_layer.fhir.references import is_id
from bot_layer.host.admission import trimmed
from bot_layer.http import addresses
from bot_layer.medplum.client import Medplum
from bot_layer.settings import Reader, Setting

LEAST_KEY: Final = 32
KEYS: Final = ("BOT_RELAY_KEY", "BOT_HOST_INBOX_KEY", "FEDERATED_SIGNING_KEY")
_log = logging.getLogger(__name__)


def _number(name: str, about: str, default: str, least: float, most: float) -> Setting:
    return Setting(name, about, default=default, kind="number", least=least, most=most)


SETTINGS: Final = (
    _number("BOT_HOST_MAX_BODY_MB", "The largest body that the host reads, in megabytes", "1", 0.001, 1024),
    _number("BOT_HOST_CALLS_PER_BOT", "How many calls of one bot run at once", "32", 1, 10_000),
    _number("BOT_HOST_CONNECTIONS", "How many connections may be open at once", "1000", 1, 1_000_000),
    _number(
        "BOT_HOST_TAKEOVER_SECONDS", "How long another host may be silent until it counts as dead", "60", 0, 86_400
    ),
    _number("BOT_HOST_ATTEMPTS", "How often a failed event is run", "8", 0, 1000),
    _number("BOT_HOST_FIRST_PAUSE_SECONDS", "The pause before the second attempt; it doubles", "2", 0, 86_400),
    _number("BOT_HOST_CATCH_UP_SECONDS", "How often missed changes are searched for; 0 is never", "120", 0, 86_400),
    _number("BOT_HOST_SYNCS", "How many syncs of practices run at once on this host", "2", 1, 1000),
    _number("BOT_HOST_SYNCS_PER_SOURCE", "How many of them run at once at one source, over all hosts", "4", 1, 1000),
    _number("BOT_HOST_KEEP_DAYS", "How many days finished runs are kept", "7", 0, 3650),
)


def read_numbers(environ: Mapping[str, str]) -> Mapping[str, float]:
    """Each number in SETTINGS by its name; one ConfigError for all values that are not numbers or are out of range."""
    reader = Reader(SETTINGS, environ)
    found = {each.name: reader.number(each.name) for each in SETTINGS}
    reader.complain()
    return found


def require_safe_start(host: str, environ: Mapping[str, str], *, private_network: bool) -> None:
    """Raise ConfigError for an address or a key with which a host must not start."""
    if addresses.network(host) != "loopback" and not private_network:
        raise ConfigError(
            "The Fission route is plain HTTP. Listen on 127.0.0.1, or add --private-network if nobody but Medplum "
            "reaches this address.",
            code="not-loopback",
        )
    short = [name for name in KEYS if 0 < len(environ.get(name, "")) < LEAST_KEY]
    if short:
        raise ConfigError(
            f"Set {', '.join(short)} to at least {LEAST_KEY} characters: "
            "python3 -c 'import secrets; print(secrets.token_hex(32))'.",
            code="short-key",
        )
    federated = environ.get("FEDERATED_BASE_URL")
    if federated and not addresses.is_https_or_loopback(federated):
        raise ConfigError("Give FEDERATED_BASE_URL an https:// address.", code="unsafe-address")


def pinned_projects(
    servers: Sequence[str], project: str | None, environ: Mapping[str, str], login: Callable[[], Medplum] | None
) -> Mapping[str, Callable[[], str]]:
    """For each server, the only project whose Bots may run: ``--project``, or the project of the host's own login.

    Both apply to the first server, or the one of ``MEDPLUM_BASE_URL``. The log names those that are not pinned.
    """
    addressed = [trimmed(server) for server in servers]
    found: dict[str, Callable[[], str]] = {}
    own = trimmed(environ.get("MEDPLUM_BASE_URL", ""))
    if login is not None and own in addressed:
        found[own] = cache(lambda: str(login().get("auth/me")["project"]["id"]))
    if project:
        if not is_id(project):
            raise ConfigError("Give --project the id of a Medplum project.", code="invalid-setting")
        found[addressed[0]] = lambda: project
    for server in addressed:
        if server not in found:
            _log.warning(
                "Any project of this Medplum server may run bots here: pin one with --project or the host's own login. "
                "Server %d of %d",
                addressed.index(server) + 1,
                len(addressed),
            )
    return found
