"""``medplum-bots federated-client``: creates a login for a partner that may query the federated responder."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

import typer

from bot_layer.federation.rules.token import DEFAULT_SCOPES, hash_secret

app = typer.Typer()


@app.command("federated-client")
def federated_client(
    client_id: Annotated[str, typer.Option("--id", help="The client id to give to Health Gorilla.")] = "health-gorilla",
) -> None:
    """Create a client's secret, and the entry for FEDERATED_CLIENTS with its hash and scopes.

    The secret is shown once: give it to Health Gorilla over a secure channel. Only the hash is kept on this side.
    """
    secret = secrets.token_urlsafe(32)
    hashed = hash_secret(secret, secrets.token_bytes(16))
    entry = {"id": client_id, "secretHash": hashed, "scopes": list(DEFAULT_SCOPES)}
    typer.echo("To Health Gorilla:")
    typer.echo(f"  client_id      {client_id}")
    typer.echo(f"  client_secret  {secret}")
    typer.echo(f"  scope          {' '.join(DEFAULT_SCOPES)}")
    typer.echo("To this host's environment (a list: add others to it):")
    typer.echo(f"  FEDERATED_CLIENTS='{json.dumps([entry])}'")
    typer.echo("To the same environment, once, if it has no key for the tokens yet:")
    typer.echo(f"  FEDERATED_SIGNING_KEY='{secrets.token_urlsafe(48)}'")
