"""Named practices, each with its own settings, in one TOML text.

[defaults]
PF_RESOURCE_TYPES = "Patient,Observation"

[practices.north]
PF_FHIR_BASE_URL = "https://api.practicefusion.com/fhir/r4/v1/..."
PF_CLIENT_ID = "..."
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from bot_layer.bulk_sync.rules.settings import SETTINGS, SyncSettings, read_settings
from bot_layer.errors import ConfigError
from bot_layer.settings import combine

PRACTICES: Final = "PF_PRACTICES"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KNOWN: Final = frozenset(each.name for each in SETTINGS) - {PRACTICES}
Practices = Mapping[str, SyncSettings | ConfigError]


def read_practices(text: str, others: Mapping[str, str]) -> Practices:
    """The settings of each practice, or the error in them: one practice's error does not stop the others.

    Missing settings are taken from ``defaults``, then from ``others``; address and login only together. Raises
    ConfigError if the text is not TOML, or has no practice.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise _wrong(f"{PRACTICES} is not TOML") from fault
    tables = document.get("practices")
    if not isinstance(tables, dict) or not tables or document.keys() - {"practices", "defaults"}:
        raise _wrong(f"{PRACTICES} needs a table [practices.NAME] for each practice, and may have [defaults]")
    defaults = combine(SETTINGS, _values(document.get("defaults", {}), "defaults"), others)
    found: dict[str, SyncSettings | ConfigError] = {}
    sources: set[str] = set()
    for name, table in tables.items():
        try:
            found[name] = settings = _practice(name, table, defaults)
            if settings.source in sources:
                found[name] = _wrong(f"Practice {name} has the address of another one")
            sources.add(settings.source)
        except ConfigError as fault:
            found[name] = fault
    return found


def read_every(values: Mapping[str, str]) -> Practices:
    """The settings of each named practice, or of the only one with an empty name; or the error in them."""
    if values.get(PRACTICES):
        return read_practices(values[PRACTICES], values)
    try:
        return {"": read_settings(values)}
    except ConfigError as fault:
        return {"": fault}


def require_settings(values: Mapping[str, str]) -> None:
    """Raise a ConfigError that names what is missing or wrong in the settings of any practice."""
    for name, settings in read_every(values).items():
        if isinstance(settings, ConfigError):
            where = f"Practice {name}: " if name else ""
            raise ConfigError(f"{where}{settings.message}", code=settings.code, missing=settings.missing)


def _practice(name: str, table: object, defaults: Mapping[str, str]) -> SyncSettings:
    if not _NAME.fullmatch(name):
        raise _wrong("A practice's name has letters, digits, '-', '_' and '.'")
    return read_settings(combine(SETTINGS, _values(table, name), defaults))


def _values(table: object, name: str) -> dict[str, str]:
    if not isinstance(table, dict):
        raise _wrong(f"{name} is not a table")
    if unknown := sorted(table.keys() - _KNOWN):
        raise _wrong(f"{name} has unknown settings: {', '.join(unknown)}")
    return {key: _text(value) for key, value in table.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(each) for each in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"{what}.", code="wrong-settings", missing=[PRACTICES])
