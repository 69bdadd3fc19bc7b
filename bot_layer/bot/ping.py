"""A call that asks who answers: the host answers it itself, and no bot runs.

The call goes the whole way (Medplum, route or relay, host, answer) and is checked as any other call. The answer names
the installation, the bot and the server, says whether the bot's settings are complete as the host sees them, and how
its last event ended. It carries codes, names of settings and times, and nothing of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bot_layer.bot import event as envelopes
from bot_layer.errors import BotError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

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
    given = envelope.get("input")
    return isinstance(given, dict) and given.get("parameter") == QUESTION["parameter"]


def answer(handler: Handler, envelope: Json, environ: Mapping[str, str], stand: Stand) -> Json:
    """The host's answer to the question."""
    bot, standing, problem = handler.bot, stand(handler.bot.name), ""
    try:
        read = envelopes.read(envelope, settings=bot.settings, environ=environ)
        handler.require_settings(read.secrets)
    except BotError as error:
        problem = error.message
    return parameters.build(
        parameters.code("action", "pong"),
        parameters.string("bot", bot.name),
        parameters.string("server", str(envelope.get("baseUrl", "")).rstrip("/")),
        parameters.string("installation", standing.installation),
        parameters.string("settings", problem),
        parameters.string("state", standing.state),
        parameters.string("code", standing.code),
        parameters.string("ended", standing.ended),
        parameters.integer("dead", standing.dead),
    )


def read(given: Any) -> Pong | None:
    """The answer as a value; None if the answer is not that of a host."""
    if not isinstance(given, dict) or given.get("resourceType") != "Parameters":
        return None
    if parameters.one(given, "action") != "pong":
        return None

    def text(name: str) -> str:
        value = parameters.one(given, name)
        return value if isinstance(value, str) else ""

    dead = parameters.one(given, "dead")
    standing = Standing(
        text("installation"), text("state"), text("code"), text("ended"), dead if isinstance(dead, int) else 0
    )
    return Pong(text("bot"), text("server"), standing, text("settings"))
