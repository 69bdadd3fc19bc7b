"""How a server keeps each search parameter: that decides which values match and which modifiers are allowed.

A parameter of FHIR's type ``token`` is a set of tokens where its values have systems, a column where they are plain
codes, and a boolean where they are booleans; a ``string`` is looked up by words in names and addresses of people, and
is a column that a value must begin with everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from medplum_sandbox.medplum.definitions.search_table import Parameter, Path
from medplum_sandbox.medplum.definitions.tables import parameters, type_of

_PERSONS = frozenset(("Patient", "Person", "Practitioner", "RelatedPerson"))
_PLACES = _PERSONS | {"InsurancePlan", "Location", "Organization"}
_NAMES = frozenset(("name", "given", "family"))
_WITH_SYSTEM = frozenset(("Identifier", "CodeableConcept", "Coding"))
_SEARCHABLE_CONTACTS = frozenset(("email", "phone", "telecom"))


class Strategy(Enum):
    """Where the values of a parameter are kept."""

    TOKENS = "tokens"
    WORDS = "words"
    TEXT = "text"
    BOOLEAN = "boolean"
    CODE = "code"
    REFERENCE = "reference"
    DATE = "date"
    NUMBER = "number"
    NOWHERE = "nowhere"  # composite and special parameters are known and cannot be searched by


@dataclass(frozen=True)
class Details:
    """A parameter with what a server derives from its definition."""

    parameter: Parameter
    strategy: Strategy
    many: bool
    types: frozenset[str]
    fold: bool = False  # letters match in either case
    contacts: bool = False  # ``:contains`` looks at the values too

    @property
    def name(self) -> str:
        """The code of the parameter."""
        return self.parameter.name


@cache
def details(resource_type: str, code: str) -> Details | None:
    """The parameter of a type, or None where there is none of that code."""
    parameter = parameters(resource_type).get(code)
    if parameter is None:
        return None
    types: set[str] = set()
    many = False
    for path in parameter.paths:
        found, repeated = _ends(resource_type, path)
        types |= found
        many |= repeated
    strategy = _strategy(resource_type, parameter, types)
    fold = "ContactPoint" in types
    contacts = fold and resource_type in _PERSONS and code in _SEARCHABLE_CONTACTS
    return Details(parameter, strategy, many, frozenset(types), fold, contacts)


def _strategy(resource_type: str, parameter: Parameter, types: set[str]) -> Strategy:
    code = parameter.name
    if resource_type in _PLACES and (code == "address" or code.startswith("address-")):
        return Strategy.WORDS
    match parameter.type:
        case "token" if "ContactPoint" in types or types & _WITH_SYSTEM:
            return Strategy.TOKENS
        case "token" if types == {"boolean"}:
            return Strategy.BOOLEAN
        case "token" | "uri":
            return Strategy.CODE
        case "string" if resource_type in _PERSONS and code in _NAMES:
            return Strategy.WORDS
        case "string":
            return Strategy.TEXT
        case "reference":
            return Strategy.REFERENCE
        case "date":
            return Strategy.DATE
        case "number" | "quantity":
            return Strategy.NUMBER
    return Strategy.NOWHERE


def _ends(resource_type: str, path: Path) -> tuple[set[str], bool]:
    """The types of the values at the end of a path, and whether there may be several."""
    if path.present:
        return {"boolean"}, False
    if path.ranks:
        return {"integer"}, False
    if path.reference_type:
        return {"string"}, False
    here, many = {resource_type}, False
    for step in path.steps:
        found: set[str] = set()
        for name in here:
            known = type_of(name)
            for json_name in step.names:
                element = known.by_json_name.get(json_name) if known else None
                if element is not None:
                    found.add(dict(element.json_names)[json_name])
                    many |= element.many and step.index is None
        if step.names[-1].endswith("*"):
            return {"code"}, True
        here = found
    return here, many
