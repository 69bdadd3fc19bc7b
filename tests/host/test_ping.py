"""A call that asks which host answers: the host replies with what it knows of the bot, and runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_layer.bot import ping
from bot_layer.bot.declaration import Bot, Setting
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.bot.ping import Standing
from bot_layer.errors import BotError, ConfigError, ReviewNeeded
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from tests.host.test_inbox import AT, NOW, Script, changed, ended, running
from tests.host.world import TokenServer, bot_resource, envelope, hosted


def test_the_host_says_who_it_is_and_runs_no_bot() -> None:
    """The answer names installation, bot and server; the bot that would have failed did not run."""
    medplum = TokenServer()
    with medplum.server:
        medplum.login("bot", bot_resource("b1", "test/break"))
        with hosted(medplum, installation="ours") as (client, _):
            answer = client.post("/bot-b1", json=envelope(medplum, "bot", ping.QUESTION)).json()
            assert client.get("/readyz").headers["X-Bot-Host"] == "ours"
    pong = ping.read(answer["returnValue"])
    assert pong is not None
    assert (pong.bot, pong.server, pong.standing.installation) == ("break", medplum.server.base_url, "ours")
    assert (pong.problem, answer["logResult"]) == ("", ping.LOG)


def test_it_is_secured_as_any_call() -> None:
    """A forged token and a caller who may not call the bot get a refusal, and learn nothing of the host."""
    medplum = TokenServer()
    with medplum.server:
        medplum.login("bot", bot_resource("b1", "test/echo"))
        with hosted(medplum, environ={"ECHO_REQUESTERS": "ClientApplication/other"}) as (client, _):
            for token, code in (("secret", "medplum-login-refused"), ("bot", "caller-not-allowed")):
                answer = client.post("/bot-b1", json=envelope(medplum, token, ping.QUESTION)).json()["returnValue"]
                assert ping.read(answer) is None
                assert code in outcomes.codes(parameters.one(answer, "outcome"))


def test_a_missing_setting_is_named_as_the_host_sees_it() -> None:
    """Only the host can see its environment; the answer names what is missing, never a value."""
    handler = Handler(
        Bot("strict", "test/strict", "needs a key", settings=(Setting("KEY", "any", required=True),)), _never
    )
    given = {"baseUrl": "https://medplum.example/", "accessToken": "t", "input": ping.QUESTION}
    for environ, problem in (({"KEY": "value"}, ""), ({}, "KEY")):
        found = ping.read(ping.answer(handler, given, environ, lambda _bot: Standing()))
        assert found is not None and (problem in found.problem) and bool(problem) == bool(found.problem)


def _never(_event: Event) -> Json:
    raise AssertionError("no bot runs")


@pytest.mark.parametrize(
    ("error", "state", "dead"),
    [(None, "done", 0), (ReviewNeeded("x", code="review"), "refused", 0), (ConfigError("x", code="review"), "dead", 1)],
)
def test_the_inbox_says_how_the_last_event_ended(tmp_path: Path, error: BotError | None, state: str, dead: int) -> None:
    """State, code and the number of dead letters; a bot without events has none."""
    script = Script(None, error)
    with running(tmp_path, script) as (inbox, runs):
        for number in ("1", "2"):
            inbox.take(script.handler, changed("a", number), AT, now=NOW)
            ended(runs, int(number))
        found = inbox.stand("script")
        assert (found.state, found.code, found.dead) == (state, "review" if error else "", dead)
        assert inbox.stand("another") == Standing(inbox.installation)
