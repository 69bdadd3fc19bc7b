# ruff: noqa: S608
# SQL is put together of constants here; every value of a caller is bound.
"""A search as SQL: conditions on the resource ``r`` that go through the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medplum_sandbox.medplum.definitions.search_table import Parameter
from medplum_sandbox.medplum.definitions.tables import is_resource_type
from medplum_sandbox.medplum.indexing import IDENTIFIER, TEXT, WHOLE, words
from medplum_sandbox.medplum.outcomes import bad_request
from medplum_sandbox.medplum.search_conditions import (
    Clause,
    any_of,
    dated,
    marks,
    numbered,
    parenthesised,
    referring,
    starting,
    tokens,
)
from medplum_sandbox.medplum.search_request import Filter, SearchRequest, parameter_of, split_prefix

# How selective a condition is, as a rule: the least leads.
_RANK = {"identifier": 0, "uri": 1, "reference": 2, "string": 3, "token": 4}
_LAST = 6
Key = Callable[[str, str], int]


def where(request: SearchRequest, project: str, key: Key) -> Clause:
    """The condition of a whole search within a project."""
    return conjunction([clause(f, request.resource_type, key) for f in request.filters], request.resource_type, project)


def conjunction(clauses: list[Clause], resource_type: str, project: str) -> Clause:
    """All of the clauses.

    The most selective set of index rows leads: the others are asked about its resources only. Index rows belong to one
    project and type and vanish with a deletion, so that nothing else needs to be asked then.
    """
    leading = min((c for c in clauses if c.rows), key=lambda c: c.rank, default=None)
    parts: list[str] = []
    arguments: list[Any] = []
    if leading is None:
        parts.append("r.project=? AND r.type=? AND r.deleted=0")
        arguments += (project, resource_type)
    for one in clauses:
        if one is leading:
            parts.append(f"r.rid IN (SELECT s.rid FROM search_index s WHERE {one.sql})")
        elif one.rows:
            # The unary plus keeps SQLite from gathering all rows of the key first.
            narrowed = one.sql.replace("s.key=?", "+s.key=?", 1)
            parts.append(f"EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND {narrowed})")
        else:
            parts.append(one.sql)
        arguments += one.arguments
    return Clause(" AND ".join(parts), tuple(arguments))


def order(request: SearchRequest, key: Key) -> str:
    """ORDER BY: what was asked for, then the order of creation. Raises 400 for an unknown parameter."""
    parts = []
    direction = ""
    for code in request.sort:
        name = code.removeprefix("-")
        direction = " DESC" if code.startswith("-") else ""
        parameter = _known(request.resource_type, name)
        if name == "_lastUpdated":
            parts.append(f"r.updated{direction}")
        elif name == "_id":
            parts.append(f"r.id{direction}")
        else:
            number = key(request.resource_type, name + WHOLE if parameter.type == "string" else name)
            parts.append(f"(SELECT min(s.value) FROM search_index s WHERE s.rid=r.rid AND +s.key={number}){direction}")
    return ", ".join([*parts, f"r.rid{direction}"])


def clause(one: Filter, resource_type: str, key: Key) -> Clause:
    """One condition on resources of the type. Raises 400 for what is unknown."""
    if one.code.startswith("_has:"):
        return _has(one, resource_type, key)
    if "." in one.code:
        return _chain(one, resource_type, key)
    parameter = _known(resource_type, one.code)
    if one.code == "_id":
        ids = one.values()
        sql = f"r.id {'NOT ' if one.modifier == 'not' else ''}IN ({marks(ids)})"
        return Clause(sql, tuple(ids))
    if one.code == "_lastUpdated":
        return parenthesised(any_of([dated("r.updated", "r.updated", *split_prefix(v)) for v in one.values()]))
    if one.modifier == "missing":
        return _missing(one, key(resource_type, _stem(parameter)))
    found = _index_clause(parameter, one, resource_type, key)
    if one.modifier in ("not", "not-in"):
        return Clause(f"NOT EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND {found.sql})", found.arguments)
    return found


def _index_clause(parameter: Parameter, one: Filter, resource_type: str, key: Key) -> Clause:
    kind = parameter.type
    if one.modifier == "text":
        return _rows(
            key(resource_type, one.code + TEXT),
            any_of([Clause("s.value LIKE ?", (f"{v.lower()}%",)) for v in one.values()]),
        )
    if one.modifier == "identifier":
        return _rows(key(resource_type, one.code + IDENTIFIER), tokens(one.values()), _RANK["identifier"])
    number = key(resource_type, one.code)
    if kind == "token":
        return _rows(number, tokens(one.values()), _RANK["identifier" if one.code == "identifier" else kind])
    if kind == "reference":
        return _rows(number, referring(one), _RANK[kind])
    if kind == "string":
        return _strings(one, number, key(resource_type, one.code + WHOLE))
    if kind == "date":
        return _rows(number, any_of([dated("s.value", "s.high", *split_prefix(v)) for v in one.values()]))
    if kind == "uri":
        return _rows(number, Clause(f"s.value IN ({marks(one.values())})", tuple(one.values())), _RANK[kind])
    return _rows(number, any_of([numbered(*split_prefix(v)) for v in one.values()]))


def _known(resource_type: str, code: str) -> Parameter:
    found = parameter_of(resource_type, code)
    if found is None:
        raise bad_request(f"Unknown search parameter: {code}")
    return found


def _rows(key: int, condition: Clause, rank: int = _LAST) -> Clause:
    return Clause(f"s.key=? AND ({condition.sql})", (key, *condition.arguments), rows=True, rank=rank)


def _strings(one: Filter, number: int, whole: int) -> Clause:
    if one.modifier == "exact":
        return _rows(whole, Clause(f"s.value IN ({marks(one.values())})", tuple(one.values())), _RANK["string"])
    if one.modifier == "contains":
        return _rows(whole, any_of([Clause("instr(lower(s.value), ?)", (v.lower(),)) for v in one.values()]))
    alternatives = [words(v) for v in one.values()]
    if all(len(found) == 1 for found in alternatives):
        return _rows(number, any_of([starting(found[0]) for found in alternatives]), _RANK["string"])
    clauses = []
    for found in alternatives:
        rows = [_rows(number, starting(word)) for word in found] or [Clause("0")]
        exists = [
            f"EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND {c.sql})" if c.rows else c.sql for c in rows
        ]
        clauses.append(Clause(" AND ".join(exists), tuple(a for c in rows for a in c.arguments)))
    return parenthesised(any_of(clauses))


def _missing(one: Filter, number: int) -> Clause:
    negation = "NOT " if one.value == "true" else ""
    return Clause(f"{negation}EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND +s.key=?)", (number,))


def _stem(parameter: Parameter) -> str:
    return parameter.name + WHOLE if parameter.type == "string" else parameter.name


def _chain(one: Filter, resource_type: str, key: Key) -> Clause:
    """``patient.identifier=...``: index rows of the reference whose target meets the rest of the chain."""
    link, _, rest = one.code.partition(".")
    code, _, named = link.partition(":")
    parameter = _known(resource_type, code)
    targets = [named] if named else list(parameter.targets)
    if len(targets) != 1 or parameter.type != "reference":
        raise bad_request(f"Unable to identify next resource type for search parameter: {resource_type}?{code}")
    target = targets[0]
    inner = _inner(rest, one.value)
    if "." not in rest and parameter_of(target, inner.code) is None:
        raise bad_request(f"Invalid search parameter at end of chain: {target}?{inner.code}")
    found = _subselect(clause(inner, target, key), "r.id")
    return _rows(
        key(resource_type, code),
        Clause(f"s.value IN ({found.sql}) AND s.system=?", (*found.arguments, target)),
        _RANK["uri"],
    )


def _has(one: Filter, resource_type: str, key: Key) -> Clause:
    """``_has:Encounter:patient:identifier=...``: resources which another type's reference leads to."""
    _, other, code, rest = [*one.code.split(":", 3), "", "", ""][:4]
    parameter = parameter_of(other, code) if is_resource_type(other) else None
    if parameter is None or parameter.type != "reference" or not rest:
        raise bad_request(f"Invalid search parameter: {one.code}")
    found = _subselect(clause(_inner(rest, one.value), other, key), "r.rid")
    number = key(other, code)
    sql = f"r.id IN (SELECT s.value FROM search_index s WHERE s.key=? AND s.system=? AND s.rid IN ({found.sql}))"
    return Clause(sql, (number, resource_type, *found.arguments))


def _inner(key: str, value: str) -> Filter:
    """The rest of a chain."""
    if key.startswith("_has:") or "." in key:
        return Filter(key, value)
    code, _, modifier = key.partition(":")
    return Filter(code, value, modifier or None)


def _subselect(one: Clause, column: str) -> Clause:
    if one.rows:
        rows = f"SELECT s.rid FROM search_index s WHERE {one.sql}"
        return Clause(f"SELECT {column} FROM resource r WHERE r.rid IN ({rows})", one.arguments)
    return Clause(f"SELECT {column} FROM resource r WHERE r.deleted=0 AND {one.sql}", one.arguments)
