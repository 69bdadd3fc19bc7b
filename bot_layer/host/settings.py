"""The settings of the host itself: environment variables, read once at its start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bot_layer.settings import Reader, Setting


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


def read(environ: Mapping[str, str]) -> Mapping[str, float]:
    """Every number by its name; one ConfigError for all values that are not numbers or are out of range."""
    reader = Reader(SETTINGS, environ)
    found = {each.name: reader.number(each.name) for each in SETTINGS}
    reader.complain()
    return found
