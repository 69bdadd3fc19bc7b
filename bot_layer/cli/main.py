"""``medplum-bots``: one command, and one file in ``bot_layer/cli`` for each of its subcommands."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import re
import sqlite3
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bot_layer import cli as commands
from bot_layer.errors import BotError

_NO_COMMAND = frozenset({"main", "__main__"})
_USAGE, _INTERRUPTED = 2, 130
_PROJECT = "medplum-python-bots"


class Commands(TyperGroup):
    """The command line: an error that its user can fix is one line on standard error, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; exit code 2 for such an error, unless the subcommand chooses another."""
        try:
            return super().invoke(ctx)
        except BotError as error:
            _end(f"{error.code}: {error.message}", _USAGE)
        except sqlite3.Error:
            _end("A database file can't be opened: does its folder exist, and may this user write there?", _USAGE)
        except OSError as fault:
            if fault.errno not in _USERS_OWN:
                raise
            named = f" ({fault.filename})" if fault.filename else ""
            _end(f"{_USERS_OWN[fault.errno]}{named}.", _USAGE)


def build(words: Sequence[str] = ()) -> typer.Typer:
    """The command with all its subcommands; if the words begin with the name of one, with only that one.

    Each file has the name of its subcommand, so that a subcommand does not load what the others need.
    """
    app = typer.Typer(
        name="medplum-bots",
        cls=Commands,
        help="Python bots for Medplum: try them, serve them, run them.",
        callback=_options,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # a traceback with local variables would print personal data
        rich_markup_mode="rich",
    )
    files = sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if module.name not in _NO_COMMAND)
    named = [name for name in files if name.replace("_", "-") in words[:1]]
    for found in named or files:
        module = importlib.import_module(f"{commands.__name__}.{found}")
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app)
    return app


def main() -> None:
    """The console script. Only its user may read the files that it writes (inbox, locks, maps, reports)."""
    os.umask(0o077)
    try:
        build(sys.argv[1:])()
    except KeyboardInterrupt:
        _end("Interrupted.", _INTERRUPTED)
    except ModuleNotFoundError as fault:
        if (fault.name or "").split(".")[0] in {"bot_layer", "bots", "medplum_sandbox"}:
            raise
        _end(_missing(fault.name or "", sys.argv[1:2]), _USAGE)


# The extras that a command always needs; other commands need extras only for some options or bots.
_EXTRAS = {"demo": "all", "logs": "host", "pf-sync": "sync", "runs": "host", "sandbox": "host,sandbox", "serve": "host"}


def _missing(module: str, command: Sequence[str]) -> str:
    """What to install if a module is missing: an extra of this package, or a library that the user's bots import."""
    library = module.partition(".")[0].replace("_", "-").lower()
    required = (re.match(r"[\w.-]+", line) for line in metadata.requires(_PROJECT) or [])
    if library not in {found[0].lower() for found in required if found}:
        return f"The package {module} is missing: install what your bots need."
    extras = _EXTRAS.get("".join(command), "all")
    return f"The package {library} is missing: pip install '{_PROJECT}[{extras}]'."


_USERS_OWN = {
    errno.EADDRINUSE: "Another program listens on that address: choose another port",
    errno.EADDRNOTAVAIL: "This machine does not have that address",
    errno.EACCES: "This user may not use that file or port",
    errno.ENOENT: "There is no such file or folder",
    errno.ENOTDIR: "A part of that path is not a folder",
    errno.EISDIR: "That is a folder, not a file",
    errno.ENOSPC: "The disk is full",
    errno.EROFS: "The file system is read-only",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medplum-bots {metadata.version(_PROJECT)}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """The options of the command itself."""


def _end(text: str, code: int) -> NoReturn:
    typer.echo(text, err=True)
    raise SystemExit(code)
