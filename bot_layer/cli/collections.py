"""The option ``--bots``, which every command that serves, deploys, runs or checks bots takes."""

from __future__ import annotations

from typing import Annotated

import typer

from bot_layer.bot.collection import Collection, configured, load

Bots = Annotated[
    list[str] | None,
    typer.Option(
        "--bots",
        metavar="COLLECTION",
        help="An installed collection, a package or a folder of bots; repeat for more. Default: `bots` in "
        r"\[tool.medplum-bots] of pyproject.toml, else every installed collection.",
    ),
]


def chosen(names: list[str] | None) -> Collection:
    """The bots of the named collections, else of those configured in the current folder's project."""
    return load(*(names or configured()))
