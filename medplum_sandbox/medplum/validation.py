"""Whether a resource has the structure of its type, with Medplum's messages in Medplum's order.

First every ``null`` is reported, then the rules of the resource. After that each element is looked at in the order of
the definition: its values, then their contents; unknown properties of an object come after all its elements.
Codes are not checked (the feature validate-terminology is off).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.constraints import Constraint, Scope, constraint
from medplum_sandbox.medplum.definitions.tables import is_resource_type, type_of
from medplum_sandbox.medplum.definitions.type_table import ANY_RESOURCE, PRIMITIVES, UNBOUNDED, Element, Type
from medplum_sandbox.medplum.outcomes import bad_request, invalid, issue
from medplum_sandbox.medplum.primitives import problem_of, wrong_type

_CAPITALS = re.compile(r"(?=[A-Z])")


def validate(resource: Json) -> None:
    """Raises 400 with every issue, or returns."""
    resource_type = resource.get("resourceType")
    if not isinstance(resource_type, str):
        raise bad_request("Missing resource type")
    found = type_of(resource_type) if is_resource_type(resource_type) else None
    if found is None:
        raise bad_request(f"Unknown data type: {resource_type}")
    issues = _Validation(resource).run(found)
    if any(one["severity"] == "error" for one in issues):
        raise invalid(issues)


def clean(value: Any) -> Any:
    """The value as it is stored: without empty strings, objects and lists; None where nothing is left.

    An empty value inside of a list becomes null, so that the others keep their places.
    """
    if isinstance(value, dict):
        kept = {k: c for k, v in value.items() if (c := clean(v)) is not None}
        return kept or None
    if isinstance(value, list):
        items = [clean(v) for v in value]
        return items if any(v is not None for v in items) else None
    return None if value == "" else value


@dataclass(frozen=True)
class _Value:
    """A value under validation: its type, its path, and the property beside it (``_birthDate``) if it is primitive."""

    value: Any
    type: str
    path: str
    beside: Any = None
    absent: bool = False  # a place beside which there is nothing either: the list beside is longer


class _Validation:
    def __init__(self, root: Json) -> None:
        self._root = root
        self._resources = [root]
        self._issues: list[Json] = []

    def run(self, kind: Type) -> list[Json]:
        self._nulls(self._root, kind.name)
        whole = _Value(self._root, kind.name, kind.name)
        self._check_rules(whole, [constraint(key, kind.name) for key in kind.constraints])
        self._crawl(whole, kind, kind.name)
        return self._issues

    def _report(self, text: str, path: str) -> None:
        self._issues.append(issue("error", "structure", text, expression=path))

    def _nulls(self, value: Any, path: str) -> None:
        """Every null: the server finds them before it looks at any type. One is allowed beside an extension."""
        for name, item in value.items() if isinstance(value, dict) else ():
            place = f"{path}.{name}"
            if item is None:
                self._report("Invalid null value", place)
            elif isinstance(item, list):
                partner = value.get(name[1:] if name.startswith("_") else f"_{name}")
                for position, one in enumerate(item):
                    if one is None and not _item(partner, position):
                        self._report("Invalid null value", f"{place}[{position}]")
                    else:
                        self._nulls(one, f"{place}[{position}]")
            elif isinstance(item, dict):
                self._nulls(item, place)

    def _crawl(self, one: _Value, kind: Type, path: str) -> None:
        """An object with its contents. ``path`` has no positions: some messages name it so."""
        value = one.value
        nested = isinstance(value, dict) and isinstance(value.get("resourceType"), str) and value is not self._root
        if nested:
            self._resources.append(value)
        fields = value if isinstance(value, dict) else {}
        for element in kind.elements_for(fields):
            found = _typed(fields, element, one.path)
            if found is None:
                if element.least > 0:
                    self._report("Missing required property", f"{one.path}.{element.name}")
                continue
            place = f"{path}.{element.name}"
            self._visit(found, element, place)
            for each in found if isinstance(found, list) else [found]:
                if each.type not in PRIMITIVES:
                    self._crawl(each, _known_type(each.type), place)
        self._superfluous(value, kind, one.path)
        if nested:
            self._resources.pop()

    def _visit(self, found: _Value | list[_Value], element: Element, path: str) -> None:
        if element.many != isinstance(found, list):
            expected = "array of values" if element.many else "single value"
            self._report(f"Expected {expected} for property", path)
            return
        values = found if isinstance(found, list) else [found]
        if not element.least <= len(values) <= element.most:
            most = "*" if element.most == UNBOUNDED else element.most
            text = f"Invalid number of values: expected {element.least}..{most}, but found {len(values)}"
            self._report(text, path)
        for each in values:
            self._check_rules(each, [constraint(key, each.type) for key in element.constraints])
            if each.type == "Reference":
                self._check_target(each, element)
            if each.type in PRIMITIVES:
                self._primitive(each)
            elif is_empty(each.value):
                self._report("Invalid empty non-primitive value", each.path)

    def _check_rules(self, one: _Value, rules: list[Constraint]) -> None:
        """The first rule that the value does not meet."""
        scope = Scope(self._resources[-1], self._root)
        for each in rules:
            if not each.holds(one.value, scope):
                text = f"Constraint {each.key} not met: {each.human}"
                self._issues.append(
                    issue("error", "invariant", text, expression=one.path, diagnostics=each.diagnostics())
                )
                return

    def _primitive(self, one: _Value) -> None:
        beside = one.beside
        if isinstance(one.value, dict | list):
            beside = one.value or beside  # the server takes an object for the extension of a value that is not there
        elif one.absent:
            self._report(wrong_type(one.type, "undefined"), one.path)
        elif one.value is not None and (text := problem_of(one.value, one.type)):
            self._report(text, one.path)
        if beside is not None:
            self._crawl(_Value(beside, "Element", one.path), _known_type("Element"), one.path)

    def _superfluous(self, value: Any, kind: Type, path: str) -> None:
        """Unknown properties. The server takes the characters of a string and the positions of a list for names."""
        if isinstance(value, str | list):
            for position in range(len(value)):
                self._report(f'Invalid additional property "{position}"', f"{path}.{position}")
            return
        choices: dict[str, str] = {}
        for name in value if isinstance(value, dict) else ():
            if name == "resourceType":
                continue
            choice = _choice(name, value, kind)
            if choice is not None:
                self._check_choice(name, choice, choices)
            elif name.removeprefix("_") not in kind.plain_names:
                self._report(f'Invalid additional property "{name}"', f"{path}.{name}")

    def _check_choice(self, name: str, choice: str, seen: dict[str, str]) -> None:
        """Warns where two forms of one choice stand side by side; a warning alone refuses nothing."""
        beside, expected = (choice[1:], name[1:]) if choice.startswith("_") else (f"_{choice}", f"_{name}")
        if beside in seen and seen[beside] != expected:
            plain = choice.removeprefix("_")
            text = f'Type of primitive extension does not match the type of property "{plain}"'
            self._issues.append(issue("warning", "structure", text, expression=choice))
        if choice in seen:
            text = f'Conflicting choice of type properties: "{name}", "{seen[choice]}"'
            self._issues.append(issue("warning", "structure", text, expression=name))
        seen[choice] = name

    def _check_target(self, one: _Value, element: Element) -> None:
        """Warns where a reference leads to a type that the element does not name."""
        reference = one.value.get("reference") if isinstance(one.value, dict) else None
        if not isinstance(reference, str) or reference.startswith("#") or not element.targets:
            return
        named = reference.partition("?" if "?" in reference else "/")[0]
        if named and named not in element.targets and "Resource" not in element.targets:
            expected = '", "'.join(_profile(target) for target in element.targets)
            text = f'Invalid reference: got "{named}", expected "{expected}"'
            self._issues.append(issue("warning", "structure", text, expression=one.path))


def _profile(name: str) -> str:
    """The URL of a type's definition."""
    found = type_of(name)
    base = "https://medplum.com" if found is not None and found.medplum else "http://hl7.org"
    return f"{base}/fhir/StructureDefinition/{name}"


def _choice(name: str, value: Json, kind: Type) -> str | None:
    """The choice that a JSON name belongs to, where the object has a value for it: ``value[x]`` of ``valueFoo``."""
    plain = name.removeprefix("_")
    stem = ""
    for part in _CAPITALS.split(plain):
        stem += part
        element = kind.choices.get(stem)
        if element is not None:
            prefix = "_" if plain != name else ""
            return f"{prefix}{element.name}" if _typed(value, element, "") is not None else None
    return None


def is_empty(value: Any) -> bool:
    """Whether the server takes the value for one that is not there."""
    return value is None or value in ("", [], {})


def _typed(fields: Json, element: Element, parent: str) -> _Value | list[_Value] | None:
    """The value of an element, or the values of a list; None where there is none. The first form of a choice counts."""
    for name, kind in element.json_names:
        value, beside = fields.get(name), fields.get(f"_{name}")
        if name not in fields and beside is None:
            continue
        path = f"{parent}.{element.name}"
        if isinstance(value, str) and value and isinstance(beside, list) and beside:
            # The server merges the two, and fails on a list beside a text.
            raise bad_request("Cannot assign to read only property '0' of object '[object String]'")
        if isinstance(value, list) or (not value and isinstance(beside, list)):
            return _list_of(value if isinstance(value, list) else [], beside, kind, path) or None
        if is_empty(value) and is_empty(beside):
            return None
        return _Value(value, _actual(value, kind), path, None if is_empty(beside) else beside)
    return None


def _list_of(values: list[Any], beside: Any, kind: str, path: str) -> list[_Value]:
    found = []
    for place in range(max(len(values), len(beside) if isinstance(beside, list) else 0)):
        value, other = _item(values, place), _item(beside, place)
        behind = place >= len(values)
        if behind and kind not in PRIMITIVES:
            value = other  # a property beside a missing object is used in its place
        found.append(_Value(value, _actual(value, kind), f"{path}[{place}]", other, absent=behind and other is None))
    return found


def _item(values: Any, position: int) -> Any:
    return values[position] if isinstance(values, list) and position < len(values) else None


def _actual(value: Any, kind: str) -> str:
    """The type of a contained resource is its own ``resourceType``."""
    if kind == ANY_RESOURCE and isinstance(value, dict) and isinstance(value.get("resourceType"), str):
        return str(value["resourceType"])
    return kind


def _known_type(name: str) -> Type:
    found = type_of(name)
    if found is None:
        raise bad_request(f"Unknown data type: {name}")
    return found
