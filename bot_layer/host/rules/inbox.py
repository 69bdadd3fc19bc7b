"""What the host's inbox takes in, under which id, in which lane, and what becomes of a run: decided purely.

Subscription and cron events are taken in, because nobody waits for their answer and Medplum never sends one again. An
event's id is made of what happened to which version, so that an event delivered twice runs once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bot_layer.bot.event import INTERACTION, SUBSCRIPTION
from bot_layer.errors import BotError, InputError, ReviewNeeded, TransientError
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one

# The queue is asked for each partition by itself, so there are not as many as there are resources: what waits behind
# another resource of its partition waits longer, but never runs out of order.
PARTITIONS = 48
LONGEST_PAUSE = 600.0


@dataclass(frozen=True)
class Intake:
    """An event for the inbox: those of one ``lane`` run one after the other."""

    id: str
    lane: str
    record: Json = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """What a run came to: ``done``, ``refused`` (the caller or a person must act), ``again`` or ``dead``."""

    state: str
    code: str = ""
    retry_after: float | None = None


def intake(envelope: Json, bot: str, *, now: datetime) -> Intake | None:
    """How an event is taken in, or None where somebody waits for its answer (``$execute``, an operation)."""
    sent, given = envelope.get("headers"), envelope.get("input")
    headers = {str(name): str(value) for name, value in sent.items()} if isinstance(sent, dict) else {}
    if not isinstance(given, dict):
        return None
    base: Json = {
        "bot": bot,
        "botId": str((envelope.get("bot") or {}).get("reference", "")).partition("/")[2],
        "baseUrl": envelope.get("baseUrl"),
        "traceId": envelope.get("traceId"),
    }
    subscription = headers.get(SUBSCRIPTION)
    if subscription:
        changed = given.get("deletedResource", given)
        reference = f"{changed.get('resourceType')}/{changed.get('id')}"
        version = changed.get("meta", {}).get("versionId", "")
        interaction = headers.get(INTERACTION, "update")
        record = base | {"kind": interaction, "resource": reference, "version": version, "subscription": subscription}
        return Intake(f"{bot}:{reference}:{version}:{interaction}:{subscription}", f"{bot}:{reference}", record)
    if given.get("resourceType") == "Bot" and not sent and "requester" not in envelope:
        return cron(bot, now, base_url=str(base["baseUrl"]), bot_id=base["botId"])
    return None


def cron(bot: str, minute: datetime, *, base_url: str, bot_id: str) -> Intake:
    """A run by the clock: one for each Bot and minute (the nearest: clocks differ), one after the other."""
    record: Json = {"bot": bot, "botId": bot_id, "baseUrl": base_url, "traceId": None, "kind": "cron"}
    record |= {"resource": f"Bot/{bot_id}", "version": "", "subscription": ""}
    nearest = (minute + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M")
    return Intake(f"{bot}:cron:{bot_id}:{nearest}", f"{bot}:cron", record)


def partition(lane: str) -> str:
    """The partition of the queue that a lane is in, the same at every host."""
    return f"partition-{zlib.crc32(lane.encode()) % PARTITIONS}"


def verdict(error: BotError | None) -> Verdict:
    """What becomes of a run that ended with an error, or without one: only a TransientError is tried again."""
    if error is None:
        return Verdict("done")
    if isinstance(error, TransientError):
        return Verdict("again", error.code, error.retry_after)
    if isinstance(error, InputError | ReviewNeeded):
        return Verdict("refused", error.code)
    return Verdict("dead", error.code)


def verdict_of_answer(answer: Json) -> Verdict:
    """The same, read from an answer that came by way of Medplum."""
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
