"""The host's own clock, for projects without Medplum's cron feature.

One run at a time over all hosts of a database. Of the runs that were missed while no host was up, one is made up for.
https://docs.dbos.dev/python/tutorials/scheduled-workflows
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dbos import DBOS

from bot_layer.clients.medplum import Medplum
from bot_layer.collection import Collection
from bot_layer.core import inbox as rules
from bot_layer.core.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.core.json import Json
from bot_layer.errors import ConfigError
from bot_layer.runtime.durable import serving


def start(bots: Collection, server: Medplum, base_url: str) -> int:
    """Schedule every bot that declares a cron string; how many."""
    timed = [handler.bot for handler in bots if handler.bot.cron]
    for bot in timed:
        found = server.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|{bot.identifier}")])
        if len(found) != 1:
            raise ConfigError(
                f"Deploy {bot.name} before it is scheduled: the server has no such Bot.", code="not-deployed"
            )
        context = {"bot": bot.name, "botId": found[0]["id"], "baseUrl": base_url}
        DBOS.apply_schedules(
            [
                {
                    "schedule_name": bot.name,
                    "workflow_fn": tick,
                    "schedule": bot.cron or "",
                    "context": context,
                    "automatic_backfill": True,
                }
            ]
        )
    return len(timed)


@DBOS.workflow(name="tick")
def tick(at: datetime, context: Any) -> None:
    """Put a run into the inbox, unless one of the bot's waits or runs already: so missed runs become one."""
    told: Json = context
    serving().enqueue_alone(rules.cron(told["bot"], at, base_url=told["baseUrl"], bot_id=told["botId"]))
