"""live-timer: creates one Basic each minute, which shows the scenario that the server's timer reaches the host."""

from __future__ import annotations

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect

SYSTEM = "https://example.org/live-timer"
BOT = Bot(
    name="live-timer",
    identifier="live/live-timer",
    about="Leaves one Basic each minute",
    cron="* * * * *",
    grants=(Grant("Basic", write=True),),
)


def act(event: Event) -> Json:
    """Creates the Basic, or finds the one of an earlier minute."""
    basic = {
        "resourceType": "Basic",
        "identifier": [{"system": SYSTEM, "value": "ran"}],
        "code": {"coding": [{"system": SYSTEM, "code": "ran"}]},
    }
    connect(event).create_once(basic, f"identifier={SYSTEM}|ran")
    return parameters.build(parameters.code("action", "ran"))


handler = Handler(BOT, act)
