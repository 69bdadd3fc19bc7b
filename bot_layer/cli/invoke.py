"""``medplum-bots invoke``: one bot, one event, here and now."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bot_layer import spans
from bot_layer.cli.collections import Bots, chosen
from bot_layer.errors import BotError, InputError
from bot_layer.fhir.json import Json
from bot_layer.host import invoke as running
from bot_layer.host import tracing
from bot_layer.medplum.client import connect_environment

app = typer.Typer()


@app.command("invoke")
def invoke(
    name: Annotated[str, typer.Argument(help="Name of the bot, e.g. sync-practitioner.")],
    event: Annotated[str, typer.Option(help="File with the event, or - for standard input.")],
    bots: Bots = None,
) -> None:
    """Run a bot on an event and print its answer.

    The event is Medplum's envelope. An address or a token that it lacks is taken from MEDPLUM_BASE_URL,
    MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET. Exit code 1: the bot failed or refused. 2: it could not be called.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    try:
        handler = chosen(bots).named(name)
        envelope = _with_login(_read(event))
    except BotError as error:
        typer.echo(f"{error.code}: {error.message}", err=True)
        raise typer.Exit(2) from error
    with tracing.recorded(os.environ), spans.call("in-process", envelope) as span:
        span.tell(name=handler.bot.name)
        result = running.invoke(handler, envelope)
        span.tell(**result.facts())
    if result.log:
        typer.echo(result.log, err=True)
    typer.echo(json.dumps(result.return_value, ensure_ascii=False, indent=2))
    if result.error is not None:
        raise typer.Exit(1)


def _read(name: str) -> Json:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        parsed = json.loads(text)
    except (OSError, ValueError) as fault:
        raise InputError("The event file can't be read as JSON.", code="unreadable-event") from fault
    if not isinstance(parsed, dict):
        raise InputError("The event must be a JSON object: Medplum's envelope.", code="unreadable-event")
    return parsed


def _with_login(envelope: Json) -> Json:
    """The envelope with the operator's own login where it brings none."""
    if envelope.get("baseUrl") and envelope.get("accessToken"):
        return envelope
    client = connect_environment(os.environ).client
    client.get("auth/me")
    return envelope | {"baseUrl": client.base_url, "accessToken": client.access_token}
