"""Checks at the start of a host, and the project that each server is pinned to."""

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

LEAST_KEY: Final = 32
KEYS: Final = ("BOT_RELAY_KEY", "BOT_HOST_INBOX_KEY", "FEDERATED_SIGNING_KEY")
_log = logging.getLogger(__name__)


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
