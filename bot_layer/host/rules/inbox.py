"""Which events the host's inbox accepts, with which id and lane, and what follows from a run's outcome. Pure functions.

The inbox accepts Subscription and cron events, because no caller waits for their answer and Medplum never sends one
again. An event's id is computed from the change and the version, so that an event delivered twice runs once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bot_layer.bot.event import INTERACTION, SUBSCRIPTION
from bot_layer.errors import BotError, InputError, ReviewNeeded, TransientError
from bot_layer.fhir.json import Json, as_object
from bot_layer.fhir.parameters import one
from bot_layer.fhir.references import is_id
from bot_layer.host.rules.callers import Admitted, changed_resource, kind_of

# Each partition of the queue is polled separately, so there is a fixed number of them, not one for each resource. An
# event may wait for another resource of its partition, but never runs out of order.
PARTITIONS = 48
LONGEST_PAUSE = 600.0
LATER_RUN = "x-medplum-bots-run"  # the header that marks a run that the inbox requests from Medplum


@dataclass(frozen=True)
class Intake:
    """An event for the inbox: those of one ``lane`` run one after the other."""

    id: str
    lane: str
    record: Json = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a run: ``done``, ``refused`` (the caller or a person must act), ``again`` or ``dead``.

    ``action`` comes from the answer, ``ms`` is the duration of the attempt in milliseconds.
    """

    state: str
    code: str = ""
    retry_after: float | None = None
    action: str = ""
    ms: float = 0.0


def intake(envelope: Json, bot: str, admitted: Admitted, *, now: datetime) -> Intake | None:
    """The intake of an event, or None if a caller waits for its answer (``$execute``, an operation)."""
    trace_id = envelope.get("traceId")
    match kind_of(envelope):
        case "call":
            return None
        case "timer":
            return cron(bot, admitted, now)
        case "subscription":
            headers = as_object(envelope.get("headers"))
            reference, deleted = changed_resource(envelope)
            given = as_object(envelope.get("input"))
            resource = given["deletedResource"] if deleted else given
            return change(
                bot,
                admitted,
                reference,
                _version(resource),
                kind="delete" if deleted else str(headers.get(INTERACTION, "update")),
                subscription=str(headers[SUBSCRIPTION]),
                trace_id=trace_id if isinstance(trace_id, str) else None,
            )


def change(
    bot: str,
    admitted: Admitted,
    reference: str,
    version: str,
    *,
    kind: str = "update",
    subscription: str = "",
    trace_id: str | None = None,
) -> Intake:
    """A run for one version of a resource, with the same id whether a Subscription reports it or a search finds it.

    A deleted resource keeps its last version id, so its deletion is a run of its own beside the run of that version.
    """
    origin = _origin(bot, admitted)
    record = _record(bot, admitted, kind, reference, version) | {"subscription": subscription, "traceId": trace_id}
    return Intake(_id(origin, reference, version, kind == "delete"), f"{origin}:{reference}", record)


def cron(bot: str, admitted: Admitted, minute: datetime) -> Intake:
    """A scheduled run: one for each Bot and minute (rounded to the nearest, because clocks differ), one at a time."""
    origin, nearest = _origin(bot, admitted), (minute + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M")
    record = _record(bot, admitted, "cron", f"Bot/{admitted.bot_id}", nearest)
    return Intake(_id(origin, "cron", nearest), f"{origin}:cron", record)


def _version(resource: Json) -> str:
    """The version of a resource, or a digest of it if it has none, so that two states are never confused."""
    version = as_object(resource.get("meta")).get("versionId")
    if isinstance(version, str) and is_id(version):
        return version
    return hashlib.sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()[:32]


def _record(bot: str, admitted: Admitted, kind: str, resource: str, version: str) -> Json:
    return {
        "bot": bot,
        "botId": admitted.bot_id,
        "project": admitted.project,
        "baseUrl": admitted.server,
        "traceId": None,
        "kind": kind,
        "resource": resource,
        "version": version,
        "subscription": "",
    }


def _origin(bot: str, admitted: Admitted) -> str:
    """The bot's name, and a digest of server, project and Bot, because a copy of a server has the same ids."""
    whole = json.dumps([admitted.server.strip().rstrip("/"), admitted.project, admitted.bot_id])
    return f"{bot}:{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def _id(*parts: str | bool) -> str:
    """The id of a run: 80 bits of a digest, as sixteen letters and digits that a person can copy."""
    return base64.b32encode(hashlib.sha256(json.dumps(parts).encode()).digest()[:10]).decode().lower()


def partition(lane: str) -> str:
    """The partition of the queue that a lane is in, the same at every host."""
    return f"partition-{zlib.crc32(lane.encode()) % PARTITIONS}"


def verdict(error: BotError | None) -> Verdict:
    """The verdict on a run that ended with or without an error: only a TransientError is retried."""
    if error is None:
        return Verdict("done")
    if isinstance(error, TransientError):
        return Verdict("again", error.code, error.retry_after)
    if isinstance(error, InputError | ReviewNeeded):
        return Verdict("refused", error.code)
    return Verdict("dead", error.code)


def verdict_of_answer(answer: Json) -> Verdict:
    """The verdict read from an answer that arrived through Medplum."""
    outcome = answer if answer.get("resourceType") == "OperationOutcome" else one(answer, "outcome")
    issues = outcome.get("issue", []) if isinstance(outcome, dict) else []
    failed = [issue for issue in issues if issue.get("severity") in {"error", "fatal"}]
    if not failed:
        return Verdict("done")
    coding = failed[0].get("details", {}).get("coding") or [{}]
    code = str(coding[0].get("code", failed[0].get("code", "")))
    states = {"transient": "again", "invalid": "refused", "conflict": "refused"}
    return Verdict(states.get(failed[0].get("code", ""), "dead"), code)


def pause(attempt: int, retry_after: float | None, *, first: float, most: int) -> float | None:
    """Seconds to wait before the next attempt (they double, up to ten minutes), or None after the last one."""
    if attempt + 1 >= most:
        return None
    return float(min(max(first * 2 ** min(attempt, 64), retry_after or 0.0), LONGEST_PAUSE))
