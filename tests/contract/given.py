"""The state before the first step of a scenario: a fresh project with its clients, as the recorder made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.projects import new_project
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests import loopback
from tests.contract.replay import Given


@contextmanager
def sandbox_for(setup: Json, bot_host: str) -> Iterator[tuple[MedplumSandbox, Given]]:
    """A sandbox that speaks as 5.0.10 did, with the project that the scenario's set-up describes."""
    with MedplumSandbox(bot_host=bot_host, version="5.0") as sandbox:
        project = new_project(
            sandbox.world,
            "Contract",
            features=setup["features"],
            client_admin=setup["client"] == "project admin",
            user_fhir_quota=setup.get("userFhirQuota"),
            second_client="second_client" in setup,
        )
        plain_id, plain_secret = project.plain_client_id or "", project.plain_client_secret or ""
        yield (
            sandbox,
            Given(
                project=project.project_id,
                client_id=project.client_id,
                secret=project.client_secret,
                client_token=token(sandbox.base_url, project.client_id, project.client_secret),
                owner_profile=project.owner_profile_id,
                email=project.owner_email,
                plain_client_id=plain_id,
                plain_client_token=token(sandbox.base_url, plain_id, plain_secret) if plain_id else "",
            ),
        )


def token(base_url: str, client_id: str, secret: str) -> str:
    """An access token of a client."""
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    answer = loopback.post(f"{base_url}/oauth2/token", data=form).raise_for_status()
    return str(answer.json()["access_token"])
