"""The log that Medplum keeps of a run: the log of the bot's own package, at the level that its author chose."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.bot.declaration import Bot
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host import logs
from bot_layer.host.invoke import invoke

BOT = Bot(name="talk", identifier="clinic/talk", about="")


@pytest.fixture
def package() -> Iterator[str]:
    """The name of a team's package, whose loggers are as new afterwards."""
    yield "clinic_bots_that_talk"
    logs.own_packages.discard("clinic_bots_that_talk")
    logger = logging.getLogger("clinic_bots_that_talk")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def talking(package: str) -> Handler:
    """A bot in a module of that package."""

    def act(_event: Event) -> Json:
        for name in (f"{package}.rules", "urllib3.connectionpool"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "%s of %s", logging.getLevelName(level).lower(), name)
        return parameters.build()

    act.__module__ = f"{package}.talk"
    return Handler(BOT, act)


def test_a_teams_own_lines_are_in_the_answer(package: str) -> None:
    """From INFO on; what libraries write is not, because they write addresses with ids in them."""
    log = invoke(talking(package), {}, environ={}).answer()["logResult"]
    assert log.split("\n") == [f"INFO info of {package}.rules", f"WARNING warning of {package}.rules"]


@pytest.mark.parametrize(("level", "lines"), [(logging.DEBUG, 3), (logging.WARNING, 1), (logging.ERROR, 0)])
def test_the_level_of_its_loggers_is_obeyed(package: str, level: int, lines: int) -> None:
    """More than INFO, or less."""
    logger = logging.getLogger(package)
    logger.setLevel(level)
    log = invoke(talking(package), {}, environ={}).log
    assert len(log.splitlines()) == lines


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_the_level_of_the_process_is_obeyed(level: str, lines: int) -> None:
    """``serve --log-level debug`` shows a bot's debug lines, ``warning`` hides its INFO lines, which the answer has."""
    code = (
        "import logging\n"
        "from bot_layer.host import logs\n"
        f"logs.configure(level={level!r})\n"
        "from bot_layer.bot.declaration import Bot\n"
        "from bot_layer.bot.handler import Handler\n"
        "from bot_layer.host.invoke import invoke\n"
        "def act(event):\n"
        "    logging.getLogger('bots.talk').debug('low'); logging.getLogger('bots.talk').info('usual')\n"
        "    return {}\n"
        "act.__module__ = 'bots.talk'\n"
        "handler = Handler(Bot(name='talk', identifier='a', about=''), act)\n"
        "print(invoke(handler, {}, environ={}).log.count('INFO usual'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert len([line for line in done.stderr.splitlines() if '"logger": "bots.talk"' in line]) == lines
