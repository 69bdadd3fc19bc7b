"""The bots of a package, found by the names of its files: nobody keeps a list of them.

Bots are loaded by name, never imported where the code is read, so that the rooms which run and deploy them know no bot.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from bot_layer.bot.handler import Handler
from bot_layer.errors import InputError


@dataclass(frozen=True)
class Collection:
    """Handlers by the names of their bots, in the order of the names."""

    handlers: Mapping[str, Handler]

    def named(self, name: str) -> Handler:
        """The handler of a bot; InputError ``unknown-bot`` names those that there are."""
        found = self.handlers.get(name.replace("_", "-"))
        if found is None:
            known = ", ".join(self.handlers) or "none"
            raise InputError(f"There is no bot of this name here. There are: {known}.", code="unknown-bot")
        return found

    def identified(self, identifier: str) -> Handler | None:
        """The handler of the bot with this value under Medplum's system of bot identifiers."""
        return next((each for each in self.handlers.values() if each.bot.identifier == identifier), None)

    def only(self, names: list[str]) -> Collection:
        """The named bots alone, or all where none is named."""
        return Collection({each.bot.name: each for each in map(self.named, names)}) if names else self

    def __iter__(self) -> Iterator[Handler]:
        return iter(self.handlers.values())


@lru_cache(maxsize=8)
def load(package: str = "bots") -> Collection:
    """Every bot of a package: each module that has a ``handler``."""
    root = importlib.import_module(package)
    names = sorted(found.name for found in pkgutil.iter_modules(root.__path__) if not found.name.startswith("_"))
    handlers = [module.handler for module in (importlib.import_module(f"{package}.{name}") for name in names)]
    return Collection({each.bot.name: each for each in handlers if isinstance(each, Handler)})


def module_of(handler: Handler, package: str = "bots") -> ModuleType:
    """The module of a bot, for what it exports beside its handler."""
    return importlib.import_module(f"{package}.{handler.bot.stem}")
