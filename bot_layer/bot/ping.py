"""A call that asks who answers: the host answers it itself, and no bot runs.

The call takes the whole path (Medplum, route or relay, host, answer) and is checked as any other call. The answer names
the installation, the bot and the server, reports whether the bot's settings are complete for the host, and how
its last event ended. It carries codes, names of settings and times, and nothing of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bot_layer.bot import event as envelopes
from bot_layer.errors import BotError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json, as_object, text

if TYPE_CHECKING:
    from bot_layer.bot.handler import Handler

NAME: Final = "medplum-bots-ping"
QUESTION: Final = parameters.build(parameters.boolean(NAME, True))
INSTALLATION: Final = "X-Bot-Host"  # the header in which /readyz names the installation
LOG: Final = "ping"  # the log of such a call, so that its AuditEvent is not taken for a run of the bot


@dataclass(frozen=True)
class Standing:
    """What a host knows of a bot: its own installation, and how the bot's events go.

    ``state`` and ``code`` are those of the last event that ended, ``ended`` is when, in ISO 8601.
    """

    installation: str = ""
    state: str = ""
    code: str = ""
    ended: str = ""
    dead: int = 0


@dataclass(frozen=True)
class Pong:
    """The answer: who answered, for which bot and server. ``problem`` is what is wrong with the settings there."""

    bot: str
    server: str
    standing: Standing
    problem: str = ""


Stand = Callable[[str], Standing]


def asks(envelope: Json) -> bool:
    """True where the input is the question and nothing else."""
    return bool(as_object(envelope.get("input")).get("parameter") == QUESTION["parameter"])


def answer(handler: Handler, envelope: Json, environ: Mapping[str, str], stand: Stand) -> Json:
    """The host's answer to the question."""
    bot, standing, problem = handler.bot, stand(handler.bot.name), ""
    try:
        read = envelopes.read(envelope, settings=bot.settings, environ=environ)
        handler.require_settings(read.secrets)
    except BotError as error:
        problem = error.message
    texts = {
        "bot": bot.name,
        "server": str(envelope.get("baseUrl", "")).rstrip("/"),
        "installation": standing.installation,
        "settings": problem,
        "state": standing.state,
        "code": standing.code,
        "ended": standing.ended,
    }
    return parameters.build(
        parameters.code("action", "pong"),
        *(parameters.string(name, value) for name, value in texts.items()),
        parameters.integer("dead", standing.dead),
    )


def read(given: Any) -> Pong | None:
    """The answer as a value; None if the answer is not that of a host."""
    if as_object(given).get("resourceType") != "Parameters" or parameters.one(given, "action") != "pong":
        return None
    installation, state, code, ended = (
        text(parameters.one(given, name)) for name in ("installation", "state", "code", "ended")
    )
    bot, server, problem = (text(parameters.one(given, name)) for name in ("bot", "server", "settings"))
    dead = parameters.one(given, "dead")
    standing = Standing(installation, state, code, ended, dead if isinstance(dead, int) else 0)
    return Pong(bot, server, standing, problem)
