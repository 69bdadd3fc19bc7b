"""Conditions on one index row ``s``, by how a server keeps the parameter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medplum_sandbox.medplum.dates import point
from medplum_sandbox.medplum.indexing import TEXT, WHOLE, split_reference, words
from medplum_sandbox.medplum.outcomes import FhirError, bad_request, database_error, unforeseen
from medplum_sandbox.medplum.search_request import MODIFIERS, Filter
from medplum_sandbox.medplum.search_strategy import Details, Strategy

_AFTER = "\U0010ffff"
_INTEGER = re.compile(r"\s*[+-]?\d+\s*")
_FLOAT = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)\s*")
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Clause:
    """SQL with its arguments. ``rows`` clauses stand for a set of index rows, the others look at ``r`` itself."""

    sql: str
    arguments: tuple[Any, ...] = ()
    rows: bool = False
    rank: int = 9


@dataclass(frozen=True)
class Row:
    """A condition on a row under one key: the parameter's code with an ending such as ``:text``."""

    ending: str
    clause: Clause


def any_of(clauses: list[Clause]) -> Clause:
    """One of the clauses."""
    if len(clauses) == 1:
        return clauses[0]
    return Clause(" OR ".join(f"({c.sql})" for c in clauses), tuple(a for c in clauses for a in c.arguments))


def marks(values: list[str]) -> str:
    """A question mark for each value."""
    return ",".join("?" * len(values))


def parenthesized(one: Clause) -> Clause:
    """The clause in brackets."""
    return Clause(f"({one.sql})", one.arguments)


def refused(one: Filter, name: str) -> FhirError:
    """400 for a modifier or prefix that the parameter does not have."""
    kind = "modifier :" if one.operator in MODIFIERS else "operator "
    return bad_request(f"Invalid {kind}{one.operator} for {name}")


def condition(known: Details, one: Filter) -> Row:
    """The condition on a row of a matching resource; the caller negates it."""
    match known.strategy:
        case Strategy.TOKENS:
            return _tokens(known, one)
        case Strategy.WORDS:
            return _words(one)
        case Strategy.TEXT:
            return Row("", _text(one))
        case Strategy.BOOLEAN:
            return Row("", _boolean(one))
        case Strategy.CODE:
            return Row("", _equal(one.values()))
        case Strategy.REFERENCE:
            return Row("", _reference(known, one))
        case Strategy.DATE:
            return Row("", _dated(known, one))
        case Strategy.NUMBER:
            return Row("", _number(known, one))
    raise bad_request(f"Unknown search parameter: {one.code}")


def identified(values: list[str]) -> Clause:
    """Tokens of an Identifier: one look-up for each value; pairs of system and value by the same, then compared."""
    texts = [value.strip() for value in values]
    bare = [v for v in texts if "|" not in v and v]
    pairs = [(v.split("|", 1)[1], v.split("|", 1)[0]) for v in texts if "|" in v]
    systems = [system for value, system in pairs if value == "" and system]
    exact = [pair for pair in pairs if pair[0] != ""]
    clauses = []
    if bare:
        clauses.append(Clause(f"s.value IN ({marks(bare)})", tuple(bare)))
    if systems:
        clauses.append(Clause(f"s.system IN ({marks(systems)})", tuple(systems)))
    if exact:
        ids = [value for value, _ in exact]
        rows = ",".join(["(?,?)"] * len(exact))
        arguments = (*ids, *(part for pair in exact for part in pair))
        clauses.append(Clause(f"s.value IN ({marks(ids)}) AND (s.value, s.system) IN (VALUES {rows})", arguments))
    return any_of(clauses) if clauses else Clause("0")


def moment(column: str, one: Filter, at: str | float) -> Clause:
    """A condition on a column that holds one instant or number."""
    operators = {"eq": "=", "exact": "=", "not": "!=", "ne": "!=", "gt": ">", "sa": ">", "ge": ">="}
    found = (operators | {"lt": "<", "eb": "<", "le": "<="}).get(one.operator)
    if found is None:
        raise unforeseen(f"Unknown FHIR operator: {one.operator}")
    return Clause(f"{column}{found}?", (at,))


def identifiers(one: Filter) -> list[str]:
    """The ids that a condition names; a value that is no id matches nothing."""
    found = [value.rpartition("/")[2] for value in one.values()]
    return [
        value if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value) else _NOBODY
        for value in found
    ]


def _tokens(known: Details, one: Filter) -> Row:
    if one.operator in ("text", "contains"):
        texts = [value.strip().lower() for value in one.values()]
        return Row(TEXT, any_of([Clause("instr(s.value, ?)", (text,)) for text in texts]))
    if one.operator not in ("eq", "exact", "not", "ne"):
        raise refused(one, known.parameter.id or known.name)
    values = [value.lower() if known.fold and "|" not in value else value for value in one.values()]
    if known.fold:
        values = [_folded(value) for value in values]
    return Row("", identified(values))


def _folded(value: str) -> str:
    system, mark, text = value.rpartition("|")
    return f"{system}{mark}{text.lower()}"


def _words(one: Filter) -> Row:
    """Words of one name or address: each must be the beginning of a word there."""
    if one.operator in ("in", "not-in"):
        raise refused(one, one.code)
    values = one.values()
    if one.operator == "exact":
        texts = [value.strip() for value in values]
        return Row(WHOLE, Clause(f"s.system IN ({marks(texts)})", tuple(texts)))
    if one.operator == "contains":
        return Row(WHOLE, any_of([Clause("instr(lower(s.system), ?)", (value.lower(),)) for value in values]))
    wanted = [words(value) for value in values]
    if all(len(found) == 1 for found in wanted):
        return Row("", any_of([_starting(found[0]) for found in wanted]))
    # Without a word the server asks for nothing: every resource with a name or address matches.
    alternatives = [[Clause("instr(s.value, ?)", (f" {word}",)) for word in found] or [Clause("1")] for found in wanted]
    return Row(WHOLE, any_of([_all_of(clauses) for clauses in alternatives]))


def _all_of(clauses: list[Clause]) -> Clause:
    return Clause(" AND ".join(c.sql for c in clauses), tuple(a for c in clauses for a in c.arguments))


def _starting(word: str) -> Clause:
    return Clause("s.value>=? AND s.value<?", (word, word + _AFTER))


def _text(one: Filter) -> Clause:
    values = one.values()
    match one.operator:
        case "exact":
            return Clause(f"s.system IN ({marks(values)})", tuple(values))
        case "contains":
            return any_of([Clause("instr(s.value, ?)", (value.lower(),)) for value in values])
        case "eq" | "sw":
            return any_of([_starting(value.lower()) for value in values])
    raise bad_request(f"Unsupported string search operator: {one.operator}")


def _boolean(one: Filter) -> Clause:
    if one.operator in ("in", "not-in"):
        raise refused(one, one.code)
    if one.value not in ("true", "false"):
        raise bad_request("Boolean search value must be 'true' or 'false'")
    return Clause("s.value=?", (one.value,))


def _equal(values: list[str]) -> Clause:
    return Clause(f"s.value IN ({marks(values)})", tuple(values))


def _reference(known: Details, one: Filter) -> Clause:
    """References as they are written; an id alone is a patient's where the parameter is ``subject`` or ``patient``."""
    if one.operator in ("in", "not-in"):
        raise refused(one, one.code)
    pairs = []
    for value in one.values():
        kind, id_ = split_reference(value)
        if not kind and "/" not in value and known.name in ("subject", "patient"):
            kind = "Patient"
        pairs.append((id_, kind))
    ids = [id_ for id_, _ in pairs]
    rows = ",".join(["(?,?)"] * len(pairs))
    arguments = (*ids, *(part for pair in pairs for part in pair))
    return Clause(f"s.value IN ({marks(ids)}) AND (s.value, s.system) IN (VALUES {rows})", arguments)


def _dated(known: Details, one: Filter) -> Clause:
    if one.operator in ("in", "not-in"):
        raise refused(one, one.code)
    at = point(one.value)
    if at is None:
        raise bad_request(f"Invalid date value: {one.value}")
    day_only = known.types == {"date"}
    return _compared(known, one, one.value[:10] if day_only else at)


def _compared(known: Details, one: Filter, value: Any) -> Clause:
    """A column against one value. A list is asked whether it holds the value, whatever the prefix."""
    if known.many:
        return Clause("s.value=?", (value,))
    return moment("s.value", one, value)


def _number(known: Details, one: Filter) -> Clause:
    if known.parameter.type == "quantity":
        return _quantity(known, one)
    read = _integer if any(path.ranks for path in known.parameter.paths) else _float
    moment("s.value", one, 0)  # a prefix that the server does not know is refused before the number
    return any_of([_compared(known, one, read(value)) for value in one.values()])


def _quantity(known: Details, one: Filter) -> Clause:
    """Only the number counts. The server cannot compare a list of quantities: its database refuses."""
    text = one.value.partition("|")[0]
    if not text:
        raise bad_request(f"Invalid quantity value: {one.value}")
    if one.operator == "ap":
        if _FLOAT.fullmatch(text) is None:
            return Clause("0")  # JavaScript compares with NaN
        number = _float(text)
        if known.many:
            raise database_error(f'malformed array literal: "{_javascript(number * 0.9)}"')
        return Clause("s.value>=? AND s.value<=?", (number * 0.9, number * 1.1))
    if known.many:
        moment("s.value", one, "")  # a prefix that the server does not know is refused before that
        raise database_error(f'malformed array literal: "{text}"')
    return moment("s.value", one, _float(text))


def _integer(text: str) -> int:
    """The number of a code is an integer column."""
    if _INTEGER.fullmatch(text) is None:
        raise database_error(f'invalid input syntax for type integer: "{text}"')
    return int(text)


def _float(text: str) -> float:
    match = _FLOAT.fullmatch(text)
    if match is None:
        raise database_error(f'invalid input syntax for type double precision: "{text}"')
    return float(match[1])


def _javascript(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
