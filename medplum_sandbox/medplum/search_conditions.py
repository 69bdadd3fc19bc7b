"""Conditions on one index row ``s``, by the kind of the search parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medplum_sandbox.medplum.dates import span
from medplum_sandbox.medplum.indexing import split_reference
from medplum_sandbox.medplum.outcomes import bad_request
from medplum_sandbox.medplum.search_request import Filter

_AFTER = "\U0010ffff"


@dataclass(frozen=True)
class Clause:
    """SQL with its arguments. ``rows`` clauses stand for a set of index rows, the others look at ``r`` itself."""

    sql: str
    arguments: tuple[Any, ...] = ()
    rows: bool = False
    rank: int = 9


def any_of(clauses: list[Clause]) -> Clause:
    return Clause(" OR ".join(f"({c.sql})" for c in clauses), tuple(a for c in clauses for a in c.arguments))


def marks(values: list[str]) -> str:
    return ",".join("?" * len(values))


def tokens(values: list[str]) -> Clause:
    """Values of any system by one look-up each; pairs of system and value by the same, then compared."""
    bare = [v for v in values if "|" not in v]
    pairs = [tuple(reversed(v.split("|", 1))) for v in values if "|" in v]
    systems = [system for value, system in pairs if value == ""]
    exact = [pair for pair in pairs if pair[0] != ""]
    clauses = []
    if bare:
        clauses.append(Clause(f"s.value IN ({marks(bare)})", tuple(bare)))
    if systems:
        clauses.append(Clause(f"s.system IN ({marks(systems)})", tuple(systems)))
    if exact:
        ids = [value for value, _ in exact]
        rows = ",".join(["(?,?)"] * len(exact))
        clauses.append(
            Clause(
                f"s.value IN ({marks(ids)}) AND (s.value, s.system) IN (VALUES {rows})",
                (*ids, *(part for pair in exact for part in pair)),
            )
        )
    return clauses[0] if len(clauses) == 1 else any_of(clauses)


def referring(one: Filter) -> Clause:
    bare: list[str] = []
    typed: list[str] = []
    for value in one.values():
        kind, id_ = split_reference(value)
        kind = kind or (one.target or "")
        typed += [f"{kind}|{id_}"] if kind else []
        bare += [] if kind else [value]
    return tokens([*bare, *typed]) if not bare or not typed else any_of([tokens(bare), tokens(typed)])


def starting(word: str) -> Clause:
    return Clause("s.value>=? AND s.value<?", (word, word + _AFTER))


def dated(low: str, high: str, prefix: str, text: str) -> Clause:
    """The resource's span from ``low`` to ``high`` against the span of the text."""
    first, last = span(text) or ("", "")
    conditions = {
        "eq": (f"{low}>=? AND {high}<=?", (first, last)),
        "ne": (f"{low}<? OR {high}>?", (first, last)),
        "gt": (f"{high}>?", (last,)),
        "ge": (f"{high}>=?", (first,)),
        "lt": (f"{low}<?", (first,)),
        "le": (f"{low}<=?", (last,)),
        "sa": (f"{low}>?", (last,)),
        "eb": (f"{high}<?", (first,)),
        "ap": (f"{low}<=? AND {high}>=?", (last, first)),
    }
    sql, arguments = conditions[prefix]
    return parenthesised(Clause(sql, arguments))


def numbered(prefix: str, text: str) -> Clause:
    number, *unit = text.split("|")
    try:
        value = float(number)
    except ValueError:
        raise bad_request(f"Invalid number: {number}") from None
    operator = {"ne": "<>", "gt": ">", "sa": ">", "ge": ">=", "lt": "<", "eb": "<", "le": "<="}.get(prefix, "=")
    if unit and unit[0]:
        return Clause(f"s.value{operator}? AND s.system=?", (value, unit[0]))
    return Clause(f"s.value{operator}?", (value,))


def parenthesised(one: Clause) -> Clause:
    return Clause(f"({one.sql})", one.arguments)
