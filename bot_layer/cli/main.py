"""``medplum-bots``: one command, and one file in ``bot_layer/cli`` for each of its subcommands."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import typer

from bot_layer import cli as commands

_NO_COMMAND = frozenset({"main", "__main__"})


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command with every subcommand that has a file; where the words begin with one of these, with it alone.

    A file has its subcommand's name, so that none loads what the others need.
    """
    app = typer.Typer(
        name="medplum-bots",
        help="Python bots for Medplum: try them, serve them, run them.",
        callback=lambda: None,  # a single subcommand is still asked for by its name
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a trace with local variables would print people's data
        rich_markup_mode="rich",
    )
    files = sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if module.name not in _NO_COMMAND)
    asked = [name for name in files if name.replace("_", "-") in words[:1]]
    for found in asked or files:
        module = importlib.import_module(f"{commands.__name__}.{found}")
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app)
    return app


def main() -> None:
    """The console script. What it writes (inbox, locks, maps, reports) nobody but its user may read."""
    os.umask(0o077)
    build(sys.argv[1:])()
