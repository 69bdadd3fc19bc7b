"""``medplum-bots``: one command, and one file in ``bot_layer/commands`` for each of its subcommands."""

from __future__ import annotations

import importlib
import pkgutil

import typer

from bot_layer import commands


def build() -> typer.Typer:
    """The command with every subcommand that has a file."""
    app = typer.Typer(
        name="medplum-bots",
        help="Python bots for Medplum: try them, serve them, run them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a trace with local variables would print people's data
        rich_markup_mode="rich",
    )
    for found in sorted(module.name for module in pkgutil.iter_modules(commands.__path__)):
        module = importlib.import_module(f"{commands.__name__}.{found}")
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app)
    return app


def main() -> None:
    """The console script."""
    build()()


if __name__ == "__main__":
    main()
