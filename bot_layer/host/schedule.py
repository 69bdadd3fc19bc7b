"""The host's own clock, for projects without Medplum's cron feature. Times are UTC.

A bot has one scheduled run at a time over all hosts of a database: a run that falls due while another waits or runs is
dropped. Of the runs missed while no host was up, only the last one is run at the next start. DBOS would run all of them
(``automatic_backfill``), so this module decides it. https://docs.dbos.dev/python/tutorials/scheduled-workflows
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from croniter import croniter
from dbos import DBOS

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot
from bot_layer.errors import ConfigError
from bot_layer.fhir.json import Json
from bot_layer.host.durable import serving
from bot_layer.host.rules import inbox as rules
from bot_layer.host.rules.callers import Admitted
from bot_layer.medplum.client import Medplum


def start(bots: Collection, server: Medplum, base_url: str, *, now: datetime) -> int:
    """Schedule every bot that declares a cron string, and queue the last run that each missed; returns the number of
    bots."""
    timed = [handler.bot for handler in bots if handler.bot.cron]
    for name in {each["schedule_name"] for each in DBOS.list_schedules()} - {bot.name for bot in timed}:
        DBOS.delete_schedule(name)  # otherwise each tick would make a dead letter
    for bot in timed:
        found = server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|{bot.identifier}")])
        if len(found) != 1:
            raise ConfigError(
                f"Deploy {bot.name} before it is scheduled: the server has no such Bot.", code="not-deployed"
            )
        project = found[0].get("meta", {}).get("project", "")
        _apply(bot, {"bot": bot.name, "botId": found[0]["id"], "baseUrl": base_url, "project": project}, now)
    serving().run_clock()
    return len(timed)


def last_missed(cron: str, since: datetime, now: datetime) -> datetime | None:
    """The last time a cron string was due after an instant and up to now, if any."""
    last: datetime = croniter(cron, now.astimezone(UTC), ret_type=datetime).get_prev()  # type: ignore[no-untyped-call]  # no types
    return last if last > since else None


def _apply(bot: Bot, context: Json, now: datetime) -> None:
    """Store one schedule, with the instant up to which no missed run is left.

    That instant is unchanged while nothing was missed, because DBOS restarts a changed schedule on every host.
    """
    before: Any = DBOS.get_schedule(bot.name)
    since = now
    if before is not None and before["schedule"] == bot.cron:
        since = datetime.fromisoformat(before["context"].get("since", now.isoformat()))
        fired = before["last_fired_at"]
        missed = last_missed(bot.cron or "", max(since, datetime.fromisoformat(fired)) if fired else since, now)
        if missed is not None:
            serving().enqueue_alone(_run(context, missed))
            since = missed
    schedule: Any = {"schedule_name": bot.name, "workflow_fn": tick, "schedule": bot.cron, "automatic_backfill": False}
    DBOS.apply_schedules([schedule | {"context": context | {"since": since.isoformat()}}])


@DBOS.workflow(name="tick")
def tick(at: datetime, context: Any) -> None:
    """Queue a run, unless a run of the bot is already waiting or running."""
    serving().enqueue_alone(_run(context, at))


def _run(context: Json, at: datetime) -> rules.Intake:
    """The run of a minute: its id is the same on every host, so two hosts that find it due or missed create one run."""
    return rules.cron(context["bot"], Admitted(context["baseUrl"], context.get("project", ""), context["botId"]), at)
