"""The AuditEvents of bot runs and of deliveries to addresses."""

from __future__ import annotations

from dataclasses import dataclass

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.references import reference_to
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.results import BotResult
from medplum_sandbox.medplum.run import Run
from medplum_sandbox.medplum.trace import Trace
from medplum_sandbox.medplum.world import World

AUDIT_EVENT_TYPE = {"system": "https://medplum.com/CodeSystem/audit-event", "code": "execute"}
SUCCESS, FAILURE = "0", "4"
_DOMAIN = {"code": "4", "display": "Domain"}


@dataclass(frozen=True)
class Attempt:
    """One attempt to reach an address: when it began, and its result."""

    started: str
    success: bool
    text: str
    trace: Trace


def record_run(world: World, run: Run, result: BotResult, *, started: str) -> None:
    """Stores the AuditEvent, with the log of the run as its description."""
    Repository(world, system_actor(run.project)).create(audit_event(run, result, started=started, ended=world.now()))


def record_delivery(world: World, subscription: Json, resource: Json, attempt: Attempt) -> None:
    """Stores the AuditEvent of one attempt to reach the address of a Subscription."""
    observer = {"reference": f"Subscription/{subscription['id']}", "display": subscription["criteria"]}
    event: Json = {
        "resourceType": "AuditEvent",
        "period": {"start": attempt.started, "end": world.now()},
        "recorded": world.now(),
        "type": {"code": "transmit"},
        "agent": [{"type": {"text": "Subscription"}, "requestor": False}],
        "source": {"observer": observer},
        "entity": _entities(resource, subscription),
        "outcome": SUCCESS if attempt.success else FAILURE,
        "outcomeDesc": attempt.text,
        "extension": [attempt.trace.extension()],
    }
    Repository(world, system_actor(subscription["meta"]["project"])).create(event)


def _entities(resource: Json | None, subscription: Json | None) -> list[Json]:
    """The subject of a delivery, and its Subscription."""
    found = [{"what": reference_to(resource), "role": _DOMAIN}] if resource else []
    if subscription is not None:
        what = {"reference": f"Subscription/{subscription['id']}", "display": subscription["criteria"]}
        found.append({"what": what, "role": {"code": "9", "display": "Subscriber"}})
    return found


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
        "entity": [{"what": bot, "role": _DOMAIN}, *_entities(run.about, run.subscription)],
        "outcome": SUCCESS if result.success else FAILURE,
        "outcomeDesc": result.log,
        "extension": [run.trace.extension()],
    }
    if not result.log:
        del event["outcomeDesc"]
    return event
