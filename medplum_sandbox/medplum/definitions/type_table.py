"""``types.txt``: every type with its elements in the order of the definition.

A line at the margin names a type: ``Patient resource !dom-2 !dom-4`` (its kind - ``medplum`` is a resource type of
Medplum's own - then its constraints). An indented
line is an element: ``name * HumanName !key`` with its cardinality and its types. ``?`` is 0..1, ``1`` is 1..1, ``*`` is
0..*, ``+`` is 1..*; anything else is written out, with ``[]`` where values stand in a list. ``Reference>Patient,Group``
names the targets of a reference; ``name[x]`` is a choice of the types that follow; ``&``
marks what belongs to a summary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medplum_sandbox.medplum.definitions.constraint_table import Constraints

PRIMITIVES = frozenset(
    (
        *("base64Binary", "boolean", "canonical", "code", "date", "dateTime", "decimal", "id", "instant", "integer"),
        *("integer64", "markdown", "oid", "positiveInt", "string", "time", "unsignedInt", "uri", "url", "uuid"),
        *("xhtml", "http://hl7.org/fhirpath/System.String"),
    )
)
ANY_RESOURCE = "Resource"
UNBOUNDED = 1 << 30
_SHORT = {"?": (0, 1, False), "1": (1, 1, False), "*": (0, UNBOUNDED, True), "+": (1, UNBOUNDED, True)}
_WRITTEN = {value: key for key, value in _SHORT.items()}
_FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
_BACKBONE = ("BackboneElement", "Element")


@dataclass(frozen=True)
class Element:
    """One element of a type. ``name`` ends with ``[x]`` where the JSON name tells which of ``types`` it is."""

    name: str
    least: int
    most: int
    many: bool
    types: tuple[str, ...]
    targets: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    summary: bool = False

    @cached_property
    def choice(self) -> bool:
        """Whether the element is a choice of types."""
        return self.name.endswith("[x]")

    @cached_property
    def json_names(self) -> tuple[tuple[str, str], ...]:
        """(JSON name, type) of each form that the element can take."""
        if not self.choice:
            return ((self.name, self.types[0] if self.types else ANY_RESOURCE),)
        stem = self.name.removesuffix("[x]")
        return tuple((stem + kind[0].upper() + kind[1:], kind) for kind in self.types)


@dataclass(frozen=True)
class Type:
    """A data type, resource type or backbone element."""

    name: str
    resource: bool
    medplum: bool
    elements: tuple[Element, ...]
    constraints: tuple[str, ...] = ()

    @cached_property
    def by_json_name(self) -> dict[str, Element]:
        """The element that stands under a JSON name."""
        return {name: element for element in self.elements for name, _ in element.json_names}

    @cached_property
    def choices(self) -> dict[str, Element]:
        """The choices of types, by their names without ``[x]``."""
        return {element.name.removesuffix("[x]"): element for element in self.elements if element.choice}

    @cached_property
    def plain_names(self) -> frozenset[str]:
        """The names of the elements as the definition writes them."""
        return frozenset(element.name for element in self.elements)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place in the definition of what stands under a JSON name or beside it (``_birthDate``)."""
        return {
            key: place
            for place, e in enumerate(self.elements)
            for name, _ in e.json_names
            for key in (name, f"_{name}")
        }

    @cached_property
    def _required(self) -> frozenset[int]:
        return frozenset(place for place, element in enumerate(self.elements) if element.least > 0)

    def elements_for(self, names: Iterable[str]) -> list[Element]:
        """The elements that stand under the names and those that must be there, in the order of the definition."""
        places = self._places
        found = {places[name] for name in names if name in places}
        return [self.elements[place] for place in sorted(found | self._required)]

    @cached_property
    def by_name(self) -> dict[str, Element]:
        """The element of a name; a choice by its name with and without ``[x]``."""
        found = {element.name.removesuffix("[x]"): element for element in self.elements}
        return found | {element.name: element for element in self.elements}


class Types:
    """All types, each parsed when it is first asked for."""

    def __init__(self, sections: dict[str, list[str]]) -> None:
        self._sections = sections
        self._parsed: dict[str, Type] = {}

    def __iter__(self) -> Any:
        return iter(self._sections)

    def get(self, name: str) -> Type | None:
        """The type of that name, or None."""
        found = self._parsed.get(name)
        if found is None and name in self._sections:
            found = self._parsed[name] = _parse(name, self._sections[name])
        return found


def read(text: str) -> Types:
    """The types of a table."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        if line.startswith(" "):
            lines.append(line)
        else:
            name, _, rest = line.partition(" ")
            lines = sections[name] = [rest]
    return Types(sections)


def render(structures: list[dict[str, Any]], constraints: Constraints) -> str:
    """The table of StructureDefinitions. Profiles are left out, except those that FHIR uses as types."""
    lines: list[str] = []
    for structure in structures:
        if structure["kind"] == "primitive-type":
            continue
        name = structure["name"] if structure["name"] in ("MoneyQuantity", "SimpleQuantity") else structure["type"]
        name = name.rpartition("/")[2]
        types = _Sections(name, structure["snapshot"]["element"], constraints).collect()
        own_type = structure["url"].startswith("https://medplum.com/")
        kind = ("medplum" if own_type else "resource") if structure["kind"] == "resource" else "type"
        for number, (section, (root, elements)) in enumerate(types.items()):
            # Only a whole resource is checked by the rules on its own type.
            own = root if kind != "type" and number == 0 else []
            lines.append(" ".join((section, kind if number == 0 else "part", *(f"!{key}" for key in own))))
            lines += [f" {element}" for element in elements]
    return "\n".join(lines) + "\n"


class _Sections:
    """The types that one StructureDefinition defines: itself and its backbone elements."""

    def __init__(self, name: str, definitions: list[dict[str, Any]], constraints: Constraints) -> None:
        self._name = name
        self._root, *self._definitions = definitions
        self._constraints = constraints
        self._by_path = {one["path"]: one for one in definitions}

    def collect(self) -> dict[str, tuple[list[str], list[str]]]:
        """Constraints and element lines by type name, the type itself first."""
        found: dict[str, tuple[list[str], list[str]]] = {self._name: (self._keys(self._root), [])}
        parents = {self._root["path"]: self._name}
        for one in self._definitions:
            if one.get("sliceName") or ":" in one.get("id", ""):
                continue
            path, _, name = one["path"].rpartition(".")
            parent = parents.get(path)
            if parent is None:  # an element below a data type is repeated in some definitions
                continue
            has_parts = any(other["path"].startswith(one["path"] + ".") for other in self._definitions)
            if has_parts and _codes(one)[:1] and _codes(one)[0] in _BACKBONE:
                parents[one["path"]] = part = _type_name(one["path"])
                found[part] = (self._keys(one), [])
            found[parent][1].append(self._element(name, one))
        return found

    def _element(self, name: str, one: dict[str, Any]) -> str:
        source = one
        if reference := one.get("contentReference"):
            source = self._by_path[reference.partition("#")[2]]
        base = one.get("base") or source.get("base") or {}
        most, base_most = _number(one["max"]), _number(base.get("max", one["max"]))
        counted = (one.get("min", 0), most, base_most > 1)
        cardinality = _WRITTEN.get(counted) or f"{counted[0]}..{one['max']}{'[]' if counted[2] else ''}"
        kinds = [_kind(kind, source) for kind in source.get("type", ())]
        summary = ["&"] if one.get("isSummary") and "." not in one["path"].partition(".")[2] else []
        return " ".join((name, cardinality, *summary, *kinds, *(f"!{key}" for key in self._keys(source))))

    def _keys(self, one: dict[str, Any]) -> list[str]:
        return [key for constraint in one.get("constraint", ()) if (key := self._constraints.add(constraint, one))]


def _kind(kind: dict[str, Any], one: dict[str, Any]) -> str:
    code: str = kind["code"]
    if code in _BACKBONE:
        path = one["path"] if one.get("base", {}).get("path", one["path"]).count(".") else code
        return _type_name(path) if code == "BackboneElement" or "." in path else code
    for extension in kind.get("extension", ()):
        if extension["url"] == _FHIR_TYPE:
            code = extension["valueUrl"]
    targets = [profile.rpartition("/")[2] for profile in kind.get("targetProfile", ())]
    return f"{code}>{','.join(targets)}" if targets and code == "Reference" else code


def _codes(one: dict[str, Any]) -> list[str]:
    return [kind["code"] for kind in one.get("type", ())]


def _type_name(path: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in path.replace("[x]", "").split("."))


def _number(text: str) -> int:
    return UNBOUNDED if text == "*" else int(text)


def _parse(name: str, lines: list[str]) -> Type:
    kind, *keys = lines[0].split()
    elements = tuple(_parse_element(line) for line in lines[1:])
    resource = kind in ("resource", "medplum")
    return Type(name, resource, kind == "medplum", elements, tuple(key[1:] for key in keys))


def _parse_element(line: str) -> Element:
    name, cardinality, *rest = line.split()
    least, most, many = _SHORT.get(cardinality) or _written_out(cardinality)
    kinds = [word for word in rest if not word.startswith(("!", "&"))]
    targets = tuple(t for kind in kinds if ">" in kind for t in kind.partition(">")[2].split(","))
    types = tuple(kind.partition(">")[0] for kind in kinds)
    return Element(
        name, least, most, many, types, targets, tuple(w[1:] for w in rest if w.startswith("!")), "&" in rest
    )


def _written_out(text: str) -> tuple[int, int, bool]:
    counted, many, _ = text.partition("[]")
    least, _, most = counted.partition("..")
    return int(least), _number(most), bool(many)
