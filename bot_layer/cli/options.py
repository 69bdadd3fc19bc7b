"""The options that several commands have, and how their values are read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from bot_layer.bot.collection import Collection, configured, load
from bot_layer.medplum.client import Medplum, connect_environment

Bots = Annotated[
    list[str] | None,
    typer.Option(
        "--bots",
        metavar="COLLECTION",
        help="An installed collection, a package or a folder of bots; repeat for more. Default: `bots` in "
        r"\[tool.medplum-bots] of pyproject.toml, else every installed collection.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")]
SQLITE: Final = "sqlite:///bot-host.sqlite"
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def chosen(names: list[str] | None) -> Collection:
    """The bots of the named collections, else of those configured in the current folder's project."""
    return load(*(names or configured()))


def listed(text: str | None) -> tuple[str, ...]:
    """The different parts of a text that commas separate."""
    return tuple(dict.fromkeys(part for each in (text or "").split(",") if (part := each.strip())))


def database(given: str | None) -> str | None:
    """The URL of the host's inbox: as given, else that of the environment; None if the inbox is off."""
    found = given or os.environ.get("BOT_HOST_DATABASE_URL") or SQLITE
    return None if found == "off" else found


def host_login(environ: Mapping[str, str], bots: Collection) -> Medplum:
    """The host's own login, with a timeout as long as that of the slowest bot."""
    return connect_environment(environ, working=max((each.bot.timeout for each in bots), default=0))


def age(text: str) -> datetime:
    """The instant that long ago: ``30m``, ``12h``, ``7d``."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if found is None:
        raise typer.BadParameter("Give an age such as 30m, 12h or 7d.")
    return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})


OfBot = Annotated[str | None, typer.Option("--bot", help="Only runs of this bot.")]
InState = Annotated[
    str | None, typer.Option("--state", help="waiting, running, done, refused, failed, dead, retried or cancelled.")
]
Since = Annotated[
    datetime | None, typer.Option("--since", parser=age, metavar="AGE", help="Not older than this: 30m, 12h, 7d.")
]
