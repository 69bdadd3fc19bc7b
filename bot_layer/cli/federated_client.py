"""``medplum-bots federated-client``: a login for whoever may ask the federated responder."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

import typer

from bot_layer.federation.rules.token import hash_secret

app = typer.Typer()


@app.command("federated-client")
def federated_client(
    client_id: Annotated[str, typer.Option("--id", help="The client id to give to Health Gorilla.")] = "health-gorilla",
) -> None:
    """Make a client's secret, and the entry of FEDERATED_CLIENTS that holds its hash.

    The secret is shown once: give it to Health Gorilla over a safe channel. Only the hash is kept on this side.
    """
    secret = secrets.token_urlsafe(32)
    entry = {"id": client_id, "secretHash": hash_secret(secret, secrets.token_bytes(16))}
    typer.echo("To Health Gorilla:")
    typer.echo(f"  client_id      {client_id}")
    typer.echo(f"  client_secret  {secret}")
    typer.echo("To this host's environment (a list: add others to it):")
    typer.echo(f"  FEDERATED_CLIENTS='{json.dumps([entry])}'")
    typer.echo("Once, if it has none yet, for the tokens:")
    typer.echo(f"  FEDERATED_SIGNING_KEY='{secrets.token_urlsafe(48)}'")
