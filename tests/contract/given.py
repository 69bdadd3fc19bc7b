"""The state before the first step of a scenario: a fresh project with its clients, as the recorder made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from bot_layer.core.json import Json
from bot_layer.sandbox.medplum.sandbox import MedplumSandbox
from tests.contract.replay import Given


@contextmanager
def sandbox_for(setup: Json, bot_host: str) -> Iterator[tuple[MedplumSandbox, Given]]:
    """A sandbox that speaks as 5.0.10 did, with the project that the scenario's set-up describes."""
    quota = setup.get("userFhirQuota", 50_000)
    sandbox = MedplumSandbox(
        bot_host=bot_host,
        operation_input="body",
        features=tuple(setup["features"]),
        quota=quota,
        project_name="Contract",
        client_name="contract client",
    )
    with sandbox:
        plain = plain_client(sandbox) if setup.get("second_client") else {}
        yield (
            sandbox,
            Given(
                project=sandbox.project_id,
                client_id=sandbox.client_id,
                secret=sandbox.client_secret,
                client_token=token(sandbox, sandbox.client_id, sandbox.client_secret),
                owner_profile=sandbox.owner_profile_id,
                email=sandbox.owner_email,
                plain_client_id=plain.get("id", ""),
                plain_client_token=token(sandbox, plain["id"], plain["secret"]) if plain else "",
            ),
        )


def token(sandbox: MedplumSandbox, client_id: str, secret: str) -> str:
    """An access token of a client."""
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    answer = httpx.post(f"{sandbox.base_url}/oauth2/token", data=form).raise_for_status()
    return str(answer.json()["access_token"])


def plain_client(sandbox: MedplumSandbox) -> Json:
    """A second ClientApplication, which has no admin right: as the admin endpoint makes them."""
    bearer = token(sandbox, sandbox.client_id, sandbox.client_secret)
    answer = httpx.post(
        f"{sandbox.base_url}/admin/projects/{sandbox.project_id}/client",
        json={"name": "plain client"},
        headers={"Authorization": f"Bearer {bearer}"},
    )
    made: dict[str, Any] = answer.raise_for_status().json()
    return made
