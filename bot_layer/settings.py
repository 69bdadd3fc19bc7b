"""A setting that a bot or a command declares. The reader of all settings is in this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "flag", "whole", "number"]


@dataclass(frozen=True)
class Setting:
    """A project secret or environment variable that a bot reads.

    Every missing ``required`` setting is named in one error. ``least`` and ``most`` are the limits of a number, both
    included; ``choices`` are the only values allowed.
    """

    name: str
    about: str
    required: bool = False
    default: str | None = None
    sensitive: bool = False
    kind: Kind = "text"
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
