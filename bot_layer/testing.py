"""For tests: bots deployed on a Medplum server and served by a host in this process, and recorded runs replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir.json import Json
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.recorded.cases import Replayed, recorded_cases, replay

__all__ = ["DeployedBots", "Replayed", "recorded_cases", "replay", "start"]


@dataclass
class DeployedBots:
    """Bots on a project, and the host that runs them."""

    server: Medplum
    bots: Collection
    host: HostServer

    def execute(self, name: str, body: Json) -> Json:
        """What ``Bot/$execute`` answers for a bot; raises a BotError as the client does if it is no success."""
        identifier = self.bots.named(name).bot.identifier
        answer: Json = self.server.post(f"fhir/R4/Bot/$execute?identifier={BOT_IDENTIFIER_SYSTEM}|{identifier}", body)
        return answer

    def operation(self, reference: str, code: str, body: Json | None = None) -> Json:
        """What ``$code`` answers on ``Type/id`` or on a type."""
        answer: Json = self.server.post(
            f"fhir/R4/{reference}/${code}", body or {"resourceType": "Parameters", "parameter": []}
        )
        return answer


def start(environ: Mapping[str, str], bots: Collection, settings: Mapping[str, str]) -> tuple[DeployedBots, str]:
    """The bots deployed with these project secrets, their host (not started yet), and its ``host:port``."""
    server = connect_environment(environ)
    request = Request(bots, secrets=settings)
    report = carry_out(server, request, survey(server, request))
    if report.error is not None:
        raise report.error
    host = HostServer(HostSettings(servers=(environ["MEDPLUM_BASE_URL"],), bots=bots))
    return DeployedBots(server, bots, host), host.base_url.removeprefix("http://")
