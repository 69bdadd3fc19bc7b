"""Settings of a process that come from its environment."""

from __future__ import annotations

from collections.abc import Mapping

from bot_layer.errors import ConfigError


def number(environ: Mapping[str, str], name: str, default: str) -> float:
    """A number of the environment; ConfigError where it is none."""
    try:
        return float(environ.get(name) or default)
    except ValueError as fault:
        raise ConfigError(f"Give a number for {name}.", code="invalid-setting") from fault
