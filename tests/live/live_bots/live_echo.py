"""live-echo: answers with the text that it is given; the relay and the latency scenarios call it."""

from __future__ import annotations

from bot_layer.bot.declaration import Bot
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

BOT = Bot(name="live-echo", identifier="live/live-echo", about="Answers with the text that it is given")


def act(event: Event) -> Json:
    """The parameter ``text`` of the input, back."""
    given = event.input if isinstance(event.input, dict) else {}
    return parameters.build(
        parameters.code("action", "echoed"), parameters.string("text", parameters.one(given, "text"))
    )


handler = Handler(BOT, act)
