"""Collections of bots: a package or a folder whose modules each have a ``handler``.

Bots are loaded by name, never imported where the code is read, so that the host and the deployment know no bot. A
collection is named in one of three ways: an entry point of the group ``medplum_bots.collections`` (its name, and the
package that it points to), the name of a package that can be imported, or a folder.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from bot_layer.bot.handler import Handler
from bot_layer.errors import ConfigError, InputError
from bot_layer.fhir.json import as_object

ENTRY_POINTS = "medplum_bots.collections"
BUNDLED = "bundled"
_BUNDLED_PACKAGE = "bots"


@dataclass(frozen=True)
class Collection:
    """Handlers by the names of their bots. ``origins`` maps each bot to the name of its collection."""

    handlers: Mapping[str, Handler]
    origins: Mapping[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Handler:
        """The handler of a bot; InputError ``unknown-bot`` names the nearest and all that there are."""
        wanted = name.replace("_", "-")
        found = self.handlers.get(wanted)
        if found is None:
            near = difflib.get_close_matches(wanted, self.handlers, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            known = ", ".join(self.handlers) or "none"
            raise InputError(f"There is no bot named {wanted}.{hint} Known bots: {known}.", code="unknown-bot")
        return found

    def identified(self, identifier: str) -> Handler | None:
        """The handler of the bot with this value under Medplum's system of bot identifiers."""
        return next((each for each in self.handlers.values() if each.bot.identifier == identifier), None)

    def only(self, names: Sequence[str]) -> Collection:
        """Only the named bots, or all if no name is given."""
        if not names:
            return self
        return Collection({each.bot.name: each for each in map(self.named, names)}, self.origins)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the collections, each once, in the order in which they were loaded."""
        return tuple(dict.fromkeys(self.origins.values()))

    def __iter__(self) -> Iterator[Handler]:
        return iter(self.handlers.values())


@lru_cache(maxsize=32)
def load(*names: str) -> Collection:
    """Every bot of the named collections; without a name only the bundled bots.

    Raises InputError ``unknown-collection`` for a name that is neither an entry point, a package nor a folder, and
    ConfigError ``broken-collection`` for a module without a handler or for two bots of one name or identifier.
    """
    handlers: dict[str, Handler] = {}
    origins: dict[str, str] = {}
    for collection, package in map(_package, dict.fromkeys(names or (BUNDLED,))):
        for handler in _handlers(package):
            bot = handler.bot
            if bot.name in handlers or any(bot.identifier == each.bot.identifier for each in handlers.values()):
                raise _broken(
                    f"Two bots are named {bot.name} or share the identifier {bot.identifier}: rename one of them."
                )
            handlers[bot.name], origins[bot.name] = handler, collection
    return Collection(handlers, origins)


def configured(folder: Path | None = None) -> tuple[str, ...]:
    """The collections that ``bots`` in ``[tool.medplum-bots]`` of a pyproject.toml names, else all installed ones.

    A path in the file is relative to its folder, which is the current one by default.
    """
    root = folder or Path.cwd()
    try:
        parsed = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except OSError:
        parsed = {}
    except ValueError as fault:
        raise ConfigError("pyproject.toml is not valid TOML.", code="invalid-setting") from fault
    listed = as_object(as_object(parsed.get("tool")).get("medplum-bots")).get("bots")
    if listed is None:
        return tuple(sorted(_entry_points()))
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ConfigError("Give [tool.medplum-bots] bots a list of names or folders.", code="invalid-setting")
    return tuple(str(root / each) if _is_path(each) or (root / each).is_dir() else each for each in listed)


def module_of(handler: Handler) -> ModuleType:
    """The module of a bot."""
    return sys.modules[handler.act.__module__]


def _package(name: str) -> tuple[str, ModuleType]:
    """The name of a collection, and its package."""
    entry = _entry_points().get(name)
    if entry is not None:
        return name, importlib.import_module(entry)
    if _is_path(name) or Path(name).is_dir():
        return _from_folder(Path(name))
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as fault:
        if fault.name is not None and name.split(".", maxsplit=1)[0] != fault.name.split(".")[0]:
            raise  # the package exists, and something that it needs does not
        known = ", ".join(sorted(_entry_points()))
        raise _unknown(
            f"{name} is neither an installed collection, a package nor a folder. Installed collections: {known}."
        ) from fault
    if not hasattr(package, "__path__"):
        raise _unknown(f"{name} is a module: name the package that contains the bots.")
    return name, package


def _from_folder(folder: Path) -> tuple[str, ModuleType]:
    root = folder.resolve()
    if not root.is_dir() or not root.name.isidentifier():
        raise _unknown(f"There is no folder {folder}, or its name is no Python package name (letters, digits and _).")
    if str(root.parent) not in sys.path:
        sys.path.insert(0, str(root.parent))
    package = importlib.import_module(root.name)
    if root not in {Path(each).resolve() for each in package.__path__}:
        raise _unknown(f"Another package is named {root.name} already: rename the folder.")
    return root.name, package


def _handlers(package: ModuleType) -> Iterator[Handler]:
    """The handler of each module whose name does not begin with ``_``, in the order of the names."""
    for name in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
        if name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{name}")
        handler = getattr(module, "handler", None)
        if not isinstance(handler, Handler):
            raise _broken(
                f"The module {module.__name__} has no handler: end it with `handler = Handler(BOT, function)`, or "
                "begin its name with _ if it is not a bot."
            )
        if handler.bot.stem != name:
            raise _broken(
                f"{module.__name__} declares the bot {handler.bot.name}: name the file {handler.bot.stem}.py."
            )
        yield handler


def _unknown(text: str) -> InputError:
    return InputError(text, code="unknown-collection")


def _broken(text: str) -> ConfigError:
    return ConfigError(text, code="broken-collection")


def _entry_points() -> Mapping[str, str]:
    """Packages by the names of their entry points. The bundled bots are there also where nothing is installed."""
    found = {each.name: each.value for each in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return {BUNDLED: _BUNDLED_PACKAGE, **found}


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.startswith(".")
