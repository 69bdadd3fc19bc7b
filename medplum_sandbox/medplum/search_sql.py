# ruff: noqa: S608
# SQL is put together of constants here; every value of a caller is bound.
"""A search as SQL: conditions on the resource ``r`` that go through the index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from medplum_sandbox.medplum import additions
from medplum_sandbox.medplum.dates import point
from medplum_sandbox.medplum.definitions.tables import is_resource_type
from medplum_sandbox.medplum.indexing import IDENTIFIER, WHOLE
from medplum_sandbox.medplum.outcomes import bad_request, database_error, unforeseen
from medplum_sandbox.medplum.search_conditions import (
    Clause,
    condition,
    identified,
    identifiers,
    marks,
    moment,
    parenthesized,
    refused,
)
from medplum_sandbox.medplum.search_filter import compile_filter
from medplum_sandbox.medplum.search_request import Filter, SearchRequest, filter_of
from medplum_sandbox.medplum.search_strategy import Details, Strategy, details

# How selective a condition is, as a rule: the least leads.
_RANK = {Strategy.CODE: 1, Strategy.REFERENCE: 2, Strategy.WORDS: 3, Strategy.TEXT: 3, Strategy.TOKENS: 4}
_FIRST, _LAST = 0, 6
_COLUMNS = (Strategy.DATE, Strategy.NUMBER)
_MOST_LINKS = 3


@dataclass(frozen=True)
class Index:
    """The index of one project, and the search parameters that its server knows."""

    project: str
    key: Callable[[str, str], int]
    has_additions: bool = True

    def details(self, resource_type: str, code: str) -> Details | None:
        """The parameter of a type, or None where this server has none of that code."""
        is_added = resource_type in additions.TYPES or code in additions.PARAMETERS.get(resource_type, ())
        return details(resource_type, code) if self.has_additions or not is_added else None


def where(request: SearchRequest, index: Index) -> Clause:
    """The condition of a whole search within a project."""
    clauses = [clause(f, request.resource_type, index) for f in request.filters]
    return conjunction(clauses, request.resource_type, index.project)


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


def order(request: SearchRequest, index: Index) -> str:
    """ORDER BY: what was asked for, then the order of creation. Raises 400 for an unknown parameter.

    What has no value comes last, and first where the order is turned around.
    """
    parts = []
    direction = ""
    for code in request.sort:
        name = code.removeprefix("-")
        direction = " DESC" if code.startswith("-") else ""
        if name in ("_lastUpdated", "_id"):
            parts.append(f"r.{'updated' if name == '_lastUpdated' else 'id'}{direction}")
            continue
        known = _known(request.resource_type, name, index)
        if name == "_compartment":
            raise database_error(f"column {request.resource_type}._compartment does not exist")
        words = known.strategy is Strategy.WORDS
        number = index.key(request.resource_type, name + WHOLE if words else name)
        column = "system" if words else "value"
        least = f"(SELECT min(s.{column}) FROM search_index s WHERE s.rid=r.rid AND +s.key={number})"
        parts.append(f"{least} IS NULL{direction}, {least}{direction}")
    return ", ".join([*parts, f"r.rid{direction}"])


def clause(one: Filter, resource_type: str, index: Index) -> Clause:
    """One condition on resources of the type. Raises 400 for what is unknown."""
    if one.code.startswith("_has:") or "." in one.code:
        return _chained(one, resource_type, index)
    if one.code == "_filter":
        return Clause(*compile_filter(one.value, lambda each: _whole(each, resource_type, index)))
    special = _special(one, index.project)
    if special is not None:
        return special
    known = _known(resource_type, one.code, index)
    if one.operator == "identifier":
        number = index.key(resource_type, one.code + IDENTIFIER)
        return Clause(*_keyed(number, identified(one.values())), rows=True, rank=_FIRST)
    if one.operator in ("missing", "present") and known.strategy is not Strategy.WORDS:
        return _presence(one, known, index.key(resource_type, one.code))
    by_text = known.strategy is Strategy.TOKENS and one.operator in ("text", "contains")
    if by_text and not all(map(str.strip, one.values())):
        return Clause("1")  # an empty alternative is in every text, and in that of a resource without the parameter
    # A negation finds what the condition does not; a column of one value is compared with "!=" in the same way.
    row = condition(known, replace(one, operator="eq") if one.negated and known.strategy in _COLUMNS else one)
    sql, arguments = _keyed(index.key(resource_type, one.code + row.ending), row.clause)
    if one.negated:
        return _negated(one, known, sql, arguments, index.key(resource_type, one.code))
    rank = _FIRST if one.code == "identifier" else _RANK.get(known.strategy, _LAST)
    return Clause(sql, arguments, rows=True, rank=rank)


def _whole(one: Filter, resource_type: str, index: Index) -> tuple[str, tuple[Any, ...]]:
    """A condition on the resource ``r``, whatever it looks at."""
    found = clause(one, resource_type, index)
    if not found.rows:
        return found.sql, found.arguments
    narrowed = found.sql.replace("s.key=?", "+s.key=?", 1)
    return f"EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND {narrowed})", found.arguments


def _keyed(number: int, found: Clause) -> tuple[str, tuple[Any, ...]]:
    return f"s.key=? AND ({found.sql})", (number, *found.arguments)


def _known(resource_type: str, code: str, index: Index) -> Details:
    found = index.details(resource_type, code)
    if found is None:
        raise bad_request(f"Unknown search parameter: {code}")
    return found


def _special(one: Filter, project: str) -> Clause | None:
    """Conditions on what the server keeps beside the parameters."""
    match one.code:
        case "_id":
            if one.operator in ("in", "not-in"):
                raise refused(one, one.code)
            ids = identifiers(one)
            return Clause(f"r.id {'NOT ' if one.negated else ''}IN ({marks(ids)})", tuple(ids))
        case "_lastUpdated":
            at = point(one.value)
            if at is None:
                raise bad_request(f"Invalid date value: {one.value}")
            return parenthesized(moment("r.updated", one, at))
        case "_project":
            own = project in identifiers(one) if one.operator not in ("missing", "present") else None
            if own is None:
                own = (one.value == "true") == (one.operator == "present")
            return Clause("1" if own != one.negated else "0")
        case "_deleted":
            return Clause("0" if (one.value == "true") != one.negated else "1")
        case "_compartment":
            return _compartment(one, project)
    return None


def _compartment(one: Filter, project: str) -> Clause:
    ids = identifiers(one)
    if project in ids:
        return Clause("0" if one.negated else "1")
    within = "EXISTS (SELECT 1 FROM json_each(r.content, '$.meta.compartment') c"
    # The id behind the type, also of a reference to a version.
    reference = "json_extract(c.value, '$.reference')"
    matching = f"substr({reference}, instr({reference}, '/') + 1, 36) IN ({marks(ids)}))"
    return Clause(f"{'NOT ' if one.negated else ''}{within} WHERE {matching}", tuple(ids))


def _presence(one: Filter, known: Details, number: int) -> Clause:
    """Whether there is a value at all. Only sets of tokens insist on ``true`` or ``false``."""
    strict = known.strategy is Strategy.TOKENS
    value = one.value.lower() if strict else one.value
    if strict and value not in ("true", "false"):
        raise bad_request(f"Search filter ':{one.operator}' must have a value of 'true' or 'false'")
    absent = (value == "true") == (one.operator == "missing")
    negation = "NOT " if absent else ""
    return Clause(f"{negation}EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND +s.key=?)", (number,))


def _negated(one: Filter, known: Details, sql: str, arguments: tuple[Any, ...], number: int) -> Clause:
    """What does not match. A column without a value matches only where the server compares it as a set or exactly."""
    missing = f"NOT EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND {sql})"
    single_reference = known.strategy is Strategy.REFERENCE and not known.many
    single_value = known.strategy in (Strategy.DATE, Strategy.NUMBER) and not known.many
    several_codes = known.strategy is Strategy.CODE and not known.many and len(one.values()) > 1
    if not (single_reference or single_value or several_codes):
        return Clause(missing, arguments)
    return Clause(
        f"({missing} AND EXISTS (SELECT 1 FROM search_index s WHERE s.rid=r.rid AND +s.key=?))", (*arguments, number)
    )


def _chained(one: Filter, resource_type: str, index: Index) -> Clause:
    """A condition on what a reference leads to (``patient.name``), or on what refers to the resource (``_has``)."""
    links = _links(one.code)
    if len(links) - 1 > _MOST_LINKS:
        raise bad_request("Search chains longer than three links are not currently supported")
    return _follow(one, links, resource_type, index)


def _follow(one: Filter, links: list[str], resource_type: str, index: Index) -> Clause:
    link, *rest = links
    if not rest:
        if link.startswith("_has"):
            raise bad_request("Unterminated chained search")
        code, _, modifier = link.partition(":")
        if code not in ("_id", "_lastUpdated", "_project") and index.details(resource_type, code) is None:
            raise unforeseen(f"Invalid search parameter at end of chain: {resource_type}?{code}")
        return clause(filter_of(resource_type, code, modifier, one.value), resource_type, index)
    if link.startswith("_has"):
        _, other, code = [*link.split(":", 2), "", ""][:3]
        _reverse_link(other, code, resource_type, index)
        found = _subselect(_follow(one, rest, other, index), "r.rid", other, index.project)
        sql = "r.id IN (SELECT s.value FROM search_index s WHERE s.key=? AND s.system=? AND s.rid IN"
        return Clause(f"{sql} ({found.sql}))", (index.key(other, code), resource_type, *found.arguments))
    code, target = _forward_link(link, resource_type, index)
    found = _subselect(_follow(one, rest, target, index), "r.id", target, index.project)
    matching = Clause(f"s.value IN ({found.sql}) AND s.system=?", (*found.arguments, target))
    return Clause(*_keyed(index.key(resource_type, code), matching), rows=True, rank=_RANK[Strategy.CODE])


def _links(code: str) -> list[str]:
    """The links of a chain; a ``_has:Type:parameter`` is one."""
    found = []
    while code:
        if code.startswith("_has:"):
            first = code.find(":", 5)
            second = code.find(":", first + 1)
            if first < 0 or first >= second:
                raise unforeseen(f"Invalid search chain: {code}")
            found.append(code[:second])
            code = code[second + 1 :]
        else:
            link, _, code = code.partition(".")
            found.append(link)
    return found


def _forward_link(link: str, resource_type: str, index: Index) -> tuple[str, str]:
    """(parameter, the type that it leads to)."""
    code, _, named = link.partition(":")
    known = index.details(resource_type, code)
    if known is None:
        raise unforeseen(f"Invalid search parameter in chain: {resource_type}?{code}")
    targets = known.parameter.targets
    any_type = targets == ("*",) and is_resource_type(named)
    if len(targets) == 1 and targets != ("*",):
        target = targets[0]
    elif named and (named in targets or any_type):
        target = named
    else:
        raise unforeseen(f"Unable to identify next resource type for search parameter: {resource_type}?{code}")
    if known.strategy not in (Strategy.REFERENCE, Strategy.CODE, Strategy.TEXT):
        raise unforeseen(f"Invalid search parameter in chain: {resource_type}?{code}")
    return code, target


def _reverse_link(other: str, code: str, resource_type: str, index: Index) -> None:
    known = index.details(other, code)
    if known is None:
        raise unforeseen(f"Invalid search parameter in chain: {other}?{code}")
    if resource_type not in known.parameter.targets and known.parameter.targets != ("*",):
        text = f"search parameter {other}?{code} does not refer to {resource_type}"
        raise unforeseen(f"Invalid reverse chain link: {text}")


def _subselect(one: Clause, column: str, resource_type: str, project: str) -> Clause:
    if one.rows:
        rows = f"SELECT s.rid FROM search_index s WHERE {one.sql}"
        return Clause(f"SELECT {column} FROM resource r WHERE r.rid IN ({rows})", one.arguments)
    within = "r.project=? AND r.type=? AND r.deleted=0"
    return Clause(
        f"SELECT {column} FROM resource r WHERE {within} AND {one.sql}", (project, resource_type, *one.arguments)
    )
