"""Selects the bots of a deployment and their runtime if the command names neither.

The project itself has both: the bots deployed in it are the ones to deploy, and their runtime is kept. In a project
without deployed bots, the bots whose required settings have values are selected, except those that must be named.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot_layer.bot.declaration import Bot
from bot_layer.errors import InputError
from bot_layer.settings import missing


@dataclass(frozen=True)
class Selection:
    """The names of the bots to deploy, and why each of the others is excluded."""

    names: tuple[str, ...]
    left_out: Mapping[str, str]


def select(bots: Sequence[Bot], *, deployed: Names[str], settings: Names[str]) -> Selection:
    """The bots to deploy if the command names none.

    ``deployed`` are the identifiers of the Bots that the project runs; ``settings`` the names that have a value in the
    project, the secrets file or the environment.
    """
    names: list[str] = []
    left_out: dict[str, str] = {}
    is_first = not any(bot.identifier in deployed for bot in bots)
    for bot in bots:
        lacking = missing(bot.settings, dict.fromkeys(settings, "set"))
        if bot.identifier in deployed or (is_first and not bot.opt_in and not lacking):
            names.append(bot.name)
        elif bot.opt_in:
            left_out[bot.name] = "it is deployed only by name"
        elif lacking:
            left_out[bot.name] = f"these required settings have no value: {', '.join(lacking)}"
        else:
            left_out[bot.name] = "it is not among the bots that this project runs"
    return Selection(tuple(names), left_out)


def runtime_of(runtimes: Sequence[str], known: Mapping[str, str]) -> str:
    """The runtime to deploy with, from the ``runtimeVersion`` of the Bots that are deployed; fission if there are none.

    ``known`` maps the names of this project's runtimes to Medplum's. InputError if the Bots differ.
    """
    found = sorted({name for name, version in known.items() if version in runtimes})
    if len(found) > 1:
        raise InputError(
            f"The deployed bots run in several ways ({', '.join(found)}): name the one to use with --runtime.",
            code="runtime-ambiguous",
        )
    return found[0] if found else "fission"
