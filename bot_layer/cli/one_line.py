"""Ends a command that raises a BotError with one line on standard error and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from bot_layer.errors import BotError


@contextmanager
def one_line(exit_code: int = 2) -> Iterator[None]:
    """Print the code and the text of a BotError, never a traceback."""
    try:
        yield
    except BotError as error:
        typer.echo(f"{error.code}: {error.message}", err=True)
        raise typer.Exit(exit_code) from error
