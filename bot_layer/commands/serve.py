"""``medplum-bots serve``: the host that a Medplum server calls to run the bots."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer
import uvicorn

from bot_layer.errors import BotError, ConfigError
from bot_layer.runtime import host as hosting
from bot_layer.runtime import listen

app = typer.Typer()

Medplum = Annotated[
    list[str] | None,
    typer.Option("--medplum", help="Base URL of a Medplum server to serve; repeat for more. [MEDPLUM_BASE_URL]"),
]


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on. Anything but loopback needs a private network.")] = (
        listen.LOOPBACK
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8765,
    medplum: Medplum = None,
) -> None:
    """Serve the bots to a Medplum server: POST /bot-<botId> for its Fission route, POST /relay/<bot-name> for relays.

    Relays are answered where BOT_RELAY_KEY holds the key that they sign with.
    """
    try:
        settings = hosting.HostSettings(servers=_servers(medplum or []), relay_key=os.environ.get("BOT_RELAY_KEY"))
        application = hosting.app(settings)
    except BotError as error:
        typer.echo(f"{error.code}: {error.message}", err=True)
        raise typer.Exit(2) from error
    bound = listen.bind(host, port)
    address = bound.getsockname()
    typer.echo(f"Serving {len(settings.bots.handlers)} bots on http://{address[0]}:{address[1]}", err=True)
    asyncio.run(uvicorn.Server(listen.config(application, grace=30)).serve(sockets=[bound]))


def _servers(given: list[str]) -> tuple[str, ...]:
    servers = tuple(given or [url for url in (os.environ.get("MEDPLUM_BASE_URL") or "").split(",") if url.strip()])
    if not servers:
        raise ConfigError("Say which Medplum server to serve: --medplum URL, or MEDPLUM_BASE_URL.")
    return servers
