"""The generated tables, read when they are first needed."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from medplum_sandbox.medplum.definitions import constraint_table, search_table, type_table
from medplum_sandbox.medplum.definitions.constraint_table import Rule
from medplum_sandbox.medplum.definitions.search_table import Parameter
from medplum_sandbox.medplum.definitions.type_table import Type

_RESOURCE_NAME = re.compile(r"[A-Z][A-Za-z]+")
# Every resource type has these (Binary has none); the server keeps ``_id`` and ``_lastUpdated`` as columns.
COMMON = (
    "_compartment reference meta.compartment",
    "_profile uri meta.profile",
    "_security token meta.security",
    "_source uri meta.source",
    "_tag token meta.tag",
)


def type_of(name: str) -> Type | None:
    """A data type, resource type or backbone element; None where there is none of that name."""
    return _types().get(name)


@cache
def is_resource_type(name: str) -> bool:
    """Whether Medplum has an endpoint for the type."""
    found = type_of(name) if _RESOURCE_NAME.fullmatch(name) else None
    return found is not None and found.resource and name not in ("Resource", "DomainResource")


@cache
def resource_types() -> tuple[str, ...]:
    """All resource types, in the order of the definitions."""
    return tuple(name for name in _types() if is_resource_type(name))


@cache
def fhir_types() -> tuple[str, ...]:
    """The resource types without those that Medplum adds."""
    return tuple(name for name in resource_types() if (found := type_of(name)) is not None and not found.medplum)


@cache
def mandatory_elements(name: str) -> frozenset[str]:
    """The elements that a resource of the type must have; a choice without its ``[x]``."""
    found = type_of(name)
    return frozenset(e.name.removesuffix("[x]") for e in found.elements if e.least > 0) if found else frozenset()


@cache
def summary_elements(name: str) -> frozenset[str]:
    """The elements of a summary; a choice without its ``[x]``."""
    found = type_of(name)
    return frozenset(e.name.removesuffix("[x]") for e in found.elements if e.summary) if found else frozenset()


@cache
def parameters(resource_type: str) -> dict[str, Parameter]:
    """The search parameters of a type by code, without ``_id`` and ``_lastUpdated``."""
    if not is_resource_type(resource_type) or resource_type == "Binary":
        return {}
    common = [search_table.parse_line(line) for line in COMMON]
    own = [search_table.parse_line(line, resource_type) for line in _search_parameters().get(resource_type, ())]
    return {found.name: found for found in (*common, *own)}


def rule(name: str) -> Rule:
    """The constraint that an element names."""
    return _rules()[name]


@cache
def _types() -> type_table.Types:
    return type_table.read(_text("types.txt"))


@cache
def _rules() -> dict[str, Rule]:
    return constraint_table.read(_text("constraints.txt"))


@cache
def _search_parameters() -> dict[str, list[str]]:
    return search_table.read(_text("search_parameters.txt"))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
