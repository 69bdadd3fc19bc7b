"""The state before the first step of a scenario: a new project with its clients, as the recorder created it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.projects import new_project
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests import loopback
from tests.contract.bot_host import PATIENCE, RecordingBotHost
from tests.contract.placeholders import Bindings
from tests.contract.replay import Given, Replay, is_cron_event

A_FULL_MINUTE = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)


@dataclass(frozen=True)
class LookAlike:
    """The look-alike, as the replayer sees it: it says when it is done, and its timer is an argument."""

    sandbox: MedplumSandbox

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return self.sandbox.base_url

    def settle(self) -> None:
        """Wait until nothing is under way."""
        self.sandbox.settle(PATIENCE)

    def again(self) -> bool:
        """A status is final once the look-alike has settled."""
        return False

    def deliver(self, event: Json | None, _came: Callable[[], bool]) -> None:
        """Run the timer if the call is one of it, and wait until nothing is under way."""
        if event is not None and is_cron_event(event):
            self.sandbox.run_cron(A_FULL_MINUTE)
        self.settle()


def replayed(scenario: Json, *, version: str = "5.0") -> dict[int, list[str]]:
    """The steps where the look-alike of a version differs from the recording."""
    with RecordingBotHost() as host, sandbox_for(scenario["setup"], host.address, version) as (sandbox, given):
        bindings = Bindings(given.values(sandbox.base_url, host.address))
        return Replay(scenario, LookAlike(sandbox), host, bindings).run()


@contextmanager
def sandbox_for(setup: Json, bot_host: str, version: str = "5.0") -> Iterator[tuple[MedplumSandbox, Given]]:
    """A look-alike that answers as 5.0.10 did (or another version), with the project that the set-up describes."""
    with MedplumSandbox(bot_host=bot_host, version=version) as sandbox:
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
