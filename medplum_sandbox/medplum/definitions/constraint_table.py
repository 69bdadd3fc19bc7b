"""``constraints.txt``: every constraint that a server refuses a resource for, one a line: key, text and FHIRPath.

The three are divided by tabs. A key that FHIR uses for several rules is told apart by the type that it stands on
(``inv-1@Task``). https://hl7.org/fhir/R4/conformance-rules.html#constraints
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The server does not check these: each element would be walked through, or the rule is known to be wrong.
SKIPPED = frozenset(("ele-1", "dom-3", "org-1", "sdf-19"))

_ESCAPES = (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))


@dataclass(frozen=True)
class Rule:
    """One constraint as it is written."""

    key: str
    human: str
    expression: str


class Constraints:
    """The constraints of a package, gathered while its types are rendered."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}

    def add(self, constraint: dict[str, Any], element: dict[str, Any]) -> str | None:
        """The name of the rule in the table; None for one that the server does not check."""
        key = constraint["key"]
        if constraint.get("severity", "error") != "error" or key in SKIPPED:
            return None
        human = _one_line(constraint.get("human", ""))
        rule = Rule(key, human, constraint.get("expression", ""))
        for name in (key, f"{key}@{element['path'].partition('.')[0]}", f"{key}@{element['path']}"):
            if self._rules.setdefault(name, rule) == rule:
                return str(name)
        raise ValueError(f"The constraint {key} has several expressions on {element['path']}.")

    def render(self) -> str:
        """The table, in the order of the keys."""
        lines = [f"{name}\t{rule.human}\t{rule.expression}\n" for name, rule in sorted(self._rules.items())]
        return "".join(lines)


def read(text: str) -> dict[str, Rule]:
    """The rules of a table by their names in it."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, human, expression = line.split("\t")
            found[name] = Rule(name.partition("@")[0], _as_written(human), expression)
    return found


def _one_line(text: str) -> str:
    for sign, written in _ESCAPES:
        text = text.replace(sign, written)
    return text


def _as_written(text: str) -> str:
    for sign, written in _ESCAPES:
        text = text.replace(written, sign)
    return text
