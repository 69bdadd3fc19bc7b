"""``medplum-bots pf-sync login``: creates a client application with only the rights that the sync needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import typer

from bot_layer.bot.collection import load
from bot_layer.bulk_sync.rules.settings import SETTINGS
from bot_layer.cli.one_line import one_line
from bot_layer.deploy.declared import declared_policy
from bot_layer.errors import AuthError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import resolve, secret_values

NAME: Final = "pf-sync"


@one_line(1)
def login() -> None:
    """Create a client application with only the rights that the sync needs, and print its id and secret for the
    environment.

    Run it once, as an administrator of the project. Another run updates the rights, for example after a change of
    PF_RESOURCE_TYPES.
    """
    server = connect_environment(os.environ)
    policy = grant(server, os.environ)
    known = server.search("ClientApplication", [("name:exact", NAME)])
    if known:
        typer.echo(f"The rights of the client application {NAME} are up to date.", err=True)
        return
    made = create(server, policy)
    typer.echo(f"MEDPLUM_CLIENT_ID={made['id']}\nMEDPLUM_CLIENT_SECRET={made['secret']}")


def grant(server: Medplum, environ: Mapping[str, str]) -> str:
    """Write the access policy and return its reference."""
    settings = resolve(SETTINGS, environ, secret_values(server.project_secrets().values()))
    wanted = declared_policy(load().named("pf_bulk_sync").bot, settings)
    body: Json = {"resourceType": "AccessPolicy", **wanted, "name": f"Login {NAME}"}
    known = server.search("AccessPolicy", [("name:exact", body["name"])])
    stored = server.update({**known[0], **body}) if known else server.create(body)
    return f"AccessPolicy/{stored['id']}"


def create(server: Medplum, policy: str) -> Json:
    """Create the client application; returns it with its secret."""
    project = server.get("auth/me").get("project") or {}
    if not project.get("id"):
        raise AuthError("This login does not tell its project.", code="medplum-login-refused")
    body = {"name": NAME, "description": "The login of pf-sync", "accessPolicy": {"reference": policy}}
    made: Json = server.post(f"admin/projects/{project['id']}/client", body)
    return made
