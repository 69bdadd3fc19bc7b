"""The one reader of settings: environment variables and project secrets, for the host, the bots and every command.

Precedence, the same everywhere (``resolve``):

* A partner's address and login come whole from one place: the environment if it has any part of them, else the
  project's secrets. An event can so never bring a token URL of its own to meet a secret of the host's environment.
* Every other setting is read by itself: from the environment, else from the project's secrets, else its default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from bot_layer.errors import ConfigError

Kind = Literal["text", "flag", "whole", "number", "choice"]

_TRUE: Final = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "n", "f", "0"})
_NUMBER: Final = re.compile(r"-?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:[eE]-?[0-9]{1,2})?")
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class Setting:
    """A setting that a bot, the host or a command reads: a project secret or an environment variable.

    Every missing ``required`` setting is named in one error; one with ``instead`` may be missing where that other
    setting has a value. ``login`` names the address and login that the setting is a part of, if it is: all settings of
    one login come from one place. ``least`` and ``most`` are the limits of a number, both included, and each number has
    both; ``choices`` are the only values allowed, in the spelling that the reader gives.
    """

    name: str
    about: str
    required: bool = False
    default: str | None = None
    sensitive: bool = False
    kind: Kind = "text"
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    login: str = ""
    instead: str = ""

    def __post_init__(self) -> None:
        if self.kind in {"whole", "number"} and (self.least is None or self.most is None):
            # A number without limits could hold a thread for ever.
            raise ValueError(f"{self.name}: declare least and most, as for every number.")


def resolve(declared: Iterable[Setting], environ: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """The value of each declared setting that has one, as text.

    Raises ConfigError if the environment has a part of a login: it names what is missing there.
    """
    settings = tuple(declared)
    logins = _logins_in(settings, environ)
    incomplete = missing([each for each in settings if each.login in logins], environ)
    if incomplete:
        raise ConfigError(
            f"The environment has a part of a login: set {', '.join(incomplete)} there too, or no part of it.",
            missing=incomplete,
        )
    return combine(settings, environ, secrets)


def combine(declared: Iterable[Setting], first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """The value of each declared setting that has one in two places: each login whole from one, the others one by one.

    A login of which the first place has any part is read from there, complete or not.
    """
    settings = tuple(declared)
    logins = _logins_in(settings, first)
    found: dict[str, str] = {}
    for each in settings:
        places = (first, second) if not each.login else (first if each.login in logins else second,)
        value = next((place[each.name] for place in places if _is_set(place, each.name)), None)
        if value is not None:
            found[each.name] = value
    return found


def _logins_in(declared: Iterable[Setting], place: Mapping[str, str]) -> set[str]:
    return {each.login for each in declared if each.login and _is_set(place, each.name)}


def missing(declared: Iterable[Setting], values: Mapping[str, str]) -> list[str]:
    """The names of the required settings without a value, sorted."""
    return sorted(
        each.name
        for each in declared
        if each.required and not _is_set(values, each.name) and not (each.instead and _is_set(values, each.instead))
    )


def secret_text(secret: Any) -> str | None:
    """The value of a project secret as text: ``{"name", "valueString"}`` and its siblings, or the bare value."""
    if isinstance(secret, Mapping):
        return next((secret_text(value) for name, value in secret.items() if str(name).startswith("value")), None)
    if isinstance(secret, bool):
        return "true" if secret else "false"
    return str(secret) if isinstance(secret, str | int | float) and secret != "" else None


def secret_values(listed: Iterable[Any]) -> dict[str, str]:
    """Values by name from a project's list of secrets."""
    pairs = ((each.get("name"), secret_text(each)) for each in listed if isinstance(each, Mapping))
    return {name: value for name, value in pairs if isinstance(name, str) and value is not None}


class Reader:
    """Reads values as declared, keeps what is wrong with them, and reports everything in one error.

    Read each value, ``refuse`` those that break a rule of your own, ``complain``, then use what was read.
    """

    def __init__(
        self, declared: Iterable[Setting], values: Mapping[str, str], *, code: str = "invalid-setting"
    ) -> None:
        self._declared = {each.name: each for each in declared}
        self._values = values
        self._code = code
        self._missing = missing(self._declared.values(), values)
        self._wrong: dict[str, str] = {}

    def text(self, name: str) -> str:
        """The value without outer white space, else the default, else an empty text."""
        setting = self._declared[name]
        return (self._values.get(name) or "").strip() or (setting.default or "")

    def flag(self, name: str) -> bool:
        """True or false, in every usual spelling."""
        word = self.text(name).lower()
        if word and word not in _TRUE | _FALSE:
            self.refuse(name, "true or false")
        return word in _TRUE

    def whole(self, name: str) -> int:
        """A whole number within the limits."""
        text = self.text(name)
        return int(self._within(name, text if _WHOLE.fullmatch(text) else "", "a whole number"))

    def number(self, name: str) -> float:
        """A number within the limits; fractions are allowed."""
        text = self.text(name)
        return self._within(name, text if _NUMBER.fullmatch(text) else "", "a number")

    def choice(self, name: str) -> str:
        """One of the choices, in the spelling of the declaration; empty where nothing is set and nothing is default."""
        text, choices = self.text(name), self._declared[name].choices
        found = next((each for each in choices if each.lower() == text.lower()), "")
        if text and not found:
            self.refuse(name, f"one of {', '.join(choices)}")
        return found

    def listed(self, name: str, separator: str | None = ",") -> tuple[str, ...]:
        """The parts of a list; ``None`` separates by white space."""
        return tuple(part for each in self.text(name).split(separator) if (part := each.strip()))

    def check(self) -> None:
        """Read every declared setting by its kind, only to check them."""
        for each in self._declared.values():
            if each.kind != "text":
                getattr(self, each.kind)(each.name)

    def refuse(self, name: str, expected: str) -> None:
        """Report a value as wrong; ``expected`` says what would be right. The value itself is never shown."""
        self._wrong.setdefault(name, expected)

    def require(self, *names: str) -> None:
        """Report those of the names that have no value, beside the required ones."""
        self._missing = sorted({*self._missing, *(each for each in names if not self.text(each))})

    def complain(self) -> None:
        """Raise one ConfigError for everything that is missing or wrong, if anything is."""
        if not self._missing and not self._wrong:
            return
        listed = "; ".join(f"{name} ({expected})" for name, expected in sorted(self._wrong.items()))
        if self._missing:
            error = ConfigError.for_missing(self._missing)
            raise ConfigError(f"{error.message} Correct: {listed}.", missing=error.missing) if listed else error
        raise ConfigError(f"Correct these settings: {listed}.", code=self._code)

    def _within(self, name: str, text: str, what: str) -> float:
        setting = self._declared[name]
        least, most = setting.least or 0.0, setting.most or 0.0
        value = float(text) if text else None
        if value is None or not least <= value <= most:
            self.refuse(name, f"{what} from {least:.12g} to {most:.12g}")
            return least
        return value


def _is_set(place: Mapping[str, str], name: str) -> bool:
    return bool((place.get(name) or "").strip())


def unknown_names(given: Iterable[str], declared: Iterable[Setting], also: Sequence[str] = ()) -> list[str]:
    """The given names that no setting has, sorted."""
    return sorted(set(given) - {each.name for each in declared} - set(also))
