"""The constraints of FHIR as functions on values.

Most rules say only which elements go together (``low.exists() or high.exists()``): these are translated to Python once,
because every resource that is written runs through them. All others are evaluated by ``fhirpathpy``, compiled once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import fhirpathpy

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.definitions.tables import rule, type_of

LOG = logging.getLogger(__name__)
_UCUM = "http://unitsofmeasure.org"
_TOKEN = re.compile(r"\s*([()+]|!=|<=|>=|[=<>]|\.not\(\)|'[^']*'|\d+|[A-Za-z_][\w.]*(?:\(\))?(?:\.\w+\(\))*)")
_STUBS = re.compile(r"\b(children|descendants)\(\)")  # the server knows their names, and both find nothing
_ASKS = {"exists": True, "empty": False, "hasValue": True}
Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Scope:
    """What an expression may refer to beside its value: the resource that holds it, and the outermost one."""

    resource: Json
    root: Json


@dataclass(frozen=True)
class Constraint:
    """A rule on the values of one type."""

    key: str
    human: str
    expression: str
    translated: Test | None
    choices: tuple[tuple[str, str], ...] = field(default=())

    def holds(self, value: Any, scope: Scope) -> bool:
        """Whether the value meets the rule. A rule that cannot be evaluated here counts as met."""
        if self.translated is not None:
            return self.translated(value)
        try:
            found = compiled(self.expression)(
                self._named(value),
                {"resource": scope.resource, "rootResource": scope.root, "context": value, "ucum": _UCUM},
            )
        except Exception:  # fhirpathpy knows fewer functions than the server
            LOG.debug("The constraint %s cannot be evaluated", self.key, exc_info=True)
            return True
        return bool(found == [True])

    def diagnostics(self) -> str:
        """What the server adds to the issue."""
        return json.dumps({"fhirpath": self.expression}, separators=(",", ":"), ensure_ascii=False)

    def _named(self, value: Any) -> Any:
        """The value with each choice under its plain name too: ``value`` for ``valueString``."""
        if not isinstance(value, dict):
            return value
        return value | {plain: value[name] for name, plain in self.choices if name in value}


@cache
def constraint(name: str, type_name: str) -> Constraint:
    """The rule of that name in the table, for values of that type."""
    found = rule(name)
    try:
        translated = _Translation(found.expression, type_name).test()
    except _NotTranslatableError:
        translated = None
    return Constraint(found.key, found.human, found.expression, translated, _choices(type_name))


@cache
def compiled(expression: str) -> Callable[[Any, Json], Any]:
    """A function of a resource and the variables of the FHIRPath expression; raises what fhirpathpy raises."""
    found: Callable[[Any, Json], Any] = fhirpathpy.compile(_STUBS.sub("where(false)", expression))
    return found


def _choices(type_name: str) -> tuple[tuple[str, str], ...]:
    found = type_of(type_name)
    elements = found.elements if found else ()
    return tuple((name, e.name.removesuffix("[x]")) for e in elements if e.choice for name, _ in e.json_names)


class _NotTranslatableError(Exception):
    """The expression asks for more than which elements are there."""


class _Translation:
    """A reader of the part of FHIRPath that combines ``path.exists()`` and ``path.empty()`` with the logical words."""

    def __init__(self, expression: str, type_name: str) -> None:
        self._tokens = _tokens(expression)
        self._type = type_name
        self._at = 0

    def test(self) -> Test:
        found = self._implies()
        if self._at != len(self._tokens):
            raise _NotTranslatableError
        return found

    def _implies(self) -> Test:
        left = self._or()
        while self._take("implies"):
            left = _implication(left, self._or())
        return left

    def _or(self) -> Test:
        left = self._and()
        while (word := self._peek()) in ("or", "xor"):
            self._at += 1
            right = self._and()
            left = _either(left, right) if word == "or" else _differing(left, right)
        return left

    def _and(self) -> Test:
        left = self._equality()
        while self._take("and"):
            left = _both(left, self._equality())
        return left

    def _equality(self) -> Test:
        left = self._term()
        while (word := self._peek()) in ("=", "!="):
            self._at += 1
            right = self._term()
            left = _differing(left, right) if word == "!=" else _negated(_differing(left, right))
        return left

    def _term(self) -> Test:
        if self._take("("):
            found = self._implies()
            if not self._take(")"):
                raise _NotTranslatableError
            return _negated(found) if self._take(".not()") else found
        word = self._peek() or ""
        path, *calls = re.split(r"\.(?=\w+\(\))", word)
        if not calls or "(" in path or calls[0].removesuffix("()") not in _ASKS:
            raise _NotTranslatableError
        self._at += 1
        found = _present(_steps(path, self._type))
        if not _ASKS[calls[0].removesuffix("()")]:
            found = _negated(found)
        for call in calls[1:]:
            if call != "not()":
                raise _NotTranslatableError
            found = _negated(found)
        return found

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, word: str) -> bool:
        if self._peek() != word:
            return False
        self._at += 1
        return True


def _tokens(expression: str) -> list[str]:
    found, position = [], 0
    while position < len(expression.rstrip()):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise _NotTranslatableError
        found.append(match[1])
        position = match.end()
    return found


def _steps(path: str, type_name: str) -> tuple[tuple[str, ...], ...]:
    """The JSON names of each step of a path that begins at a type."""
    steps = []
    here = type_of(type_name)
    for name in path.split("."):
        element = here.by_name.get(name) if here else None
        if element is None and here is not None and here.name != "Resource":
            raise _NotTranslatableError
        steps.append(tuple(json_name for json_name, _ in element.json_names) if element else (name,))
        here = type_of(element.types[0]) if element and len(element.types) == 1 else None
    return tuple(steps)


def _present(steps: tuple[tuple[str, ...], ...]) -> Test:
    """Whether the path has a value."""
    names, rest = steps[0], steps[1:]
    below = _present(rest) if rest else _is_populated

    def test(value: Any) -> bool:
        if isinstance(value, list):
            return any(test(item) for item in value)
        if not isinstance(value, dict):
            return False
        found = [value[name] for name in names if name in value]
        return any(below(item) for item in found) or (not rest and any(f"_{name}" in value for name in names))

    return test


def _is_populated(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def _negated(one: Test) -> Test:
    return lambda value: not one(value)


def _both(one: Test, other: Test) -> Test:
    return lambda value: one(value) and other(value)


def _either(one: Test, other: Test) -> Test:
    return lambda value: one(value) or other(value)


def _differing(one: Test, other: Test) -> Test:
    return lambda value: one(value) != other(value)


def _implication(one: Test, other: Test) -> Test:
    return lambda value: not one(value) or other(value)
