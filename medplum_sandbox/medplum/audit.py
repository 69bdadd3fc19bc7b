"""The AuditEvent that each run of a bot leaves."""

from __future__ import annotations

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.results import BotResult
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.world import World

AUDIT_EVENT_TYPE = {"system": "https://medplum.com/CodeSystem/audit-event", "code": "execute"}
SUCCESS, FAILURE = "0", "4"


def record_run(world: World, run: Run, result: BotResult, *, started: str) -> None:
    """Stores the AuditEvent, with the log of the run as its description."""
    Repository(world, system_actor(run.project)).create(audit_event(run, result, started=started, ended=world.now()))


def audit_event(run: Run, result: BotResult, *, started: str, ended: str) -> Json:
    """The AuditEvent of a run."""
    bot = run.bot_reference
    agents: list[Json] = [{"who": run.requester, "requestor": True}] if run.requester else []
    event: Json = {
        "resourceType": "AuditEvent",
        "period": {"start": started, "end": ended},
        "recorded": ended,
        "type": AUDIT_EVENT_TYPE,
        "agent": [*agents, {"who": bot, "requestor": False}],
        "source": {"observer": bot},
        "entity": [{"what": bot, "role": {"code": "4", "display": "Domain"}}],
        "outcome": SUCCESS if result.success else FAILURE,
        "outcomeDesc": result.log,
        "extension": [run.trace.extension()],
    }
    if not result.log:
        del event["outcomeDesc"]
    return event
