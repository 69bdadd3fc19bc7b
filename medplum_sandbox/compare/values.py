"""Random values of FHIR's types: mostly right ones, from small pools, so that searches find something."""

from __future__ import annotations

import random
from typing import Any

from medplum_sandbox.compare.requests import mark
from medplum_sandbox.json import Json
from medplum_sandbox.medplum.definitions.tables import type_of
from medplum_sandbox.medplum.definitions.type_table import PRIMITIVES, Element, Type

WORDS = (
    "alpha",
    "Beta",
    "gamma delta",
    "O'Neill",
    "Öztürk",
    "x-1",
    "2024",
    "a,b",
    "c|d",
    "e\\f",
    "%g",
    "h_i",
    "100 mg",
)
SYSTEMS = ("https://example.org/a", "https://example.org/b", "http://loinc.org", "urn:oid:1.2.3")
CODES = ("a", "b", "final", "active", "8867-4", "male")
DATES = ("2024", "2024-02", "2024-02-29", "2023-12-31", "2024-03-01")
TIMES = (
    "2024-02-29T10:00:00Z",
    "2024-02-29T10:00:00.123Z",
    "2024-03-01T00:30:00+02:00",
    "2023-12-31T23:59:59-05:00",
)
NUMBERS = (0, 1, 2, 7.5, 10, 99.99, -3)
_DEEPEST = 3
_PLAIN = {
    "boolean": (True, False),
    "integer": (0, 1, 2, -3, 10),
    "positiveInt": (1, 2, 10),
    "unsignedInt": (0, 1, 10),
    "decimal": NUMBERS,
    "date": DATES,
    "dateTime": (*DATES, *TIMES),
    "instant": TIMES,
    "time": ("10:00:00", "23:59:59.5"),
    "code": CODES,
    "uri": SYSTEMS,
    "url": SYSTEMS,
    "canonical": (*SYSTEMS, "https://example.org/a|1"),
    "oid": ("urn:oid:1.2.3",),
    "uuid": ("urn:uuid:00000000-0000-4000-8000-000000000000",),
    "base64Binary": ("YQ==", "YWJj"),
    "xhtml": ('<div xmlns="http://www.w3.org/1999/xhtml">x</div>',),
}
# Values that replace a right one to make a request wrong.
WRONG: tuple[Any, ...] = (
    *(None, "", " ", {}, [], [None], [{}], "x", 5, 1.5, True, {"x": 1}, {"id": "y"}, ["z"], "2024-13-01"),
)


class Values:
    """A source of values; ``known`` maps a type to the names of its resources."""

    def __init__(self, chance: random.Random, known: dict[str, list[str]]) -> None:
        self.chance = chance
        self.known = known

    def resource(self, resource_type: str) -> Json:
        """A resource that is right as far as its structure goes; constraints may be broken."""
        found = type_of(resource_type)
        assert found is not None
        made = self._object(found, depth=0, share=self.chance.choice((0.05, 0.15, 0.3)))
        made.pop("id", None)
        made.pop("contained", None)
        made.pop("implicitRules", None)
        made["resourceType"] = resource_type
        if "meta" in made and self.chance.random() < 0.8:
            made["meta"] = {"tag": [self.of_type("Coding", depth=_DEEPEST - 1)]}
        return made

    def of_type(self, name: str, *, depth: int = 0, targets: tuple[str, ...] = ()) -> Any:
        """A value of a data type."""
        chance = self.chance
        if name in PRIMITIVES:
            return chance.choice(_PLAIN.get(name, WORDS))
        if name == "Reference":
            return self.reference(targets)
        if name == "Identifier":
            return {"system": chance.choice(SYSTEMS), "value": chance.choice(WORDS)}
        if name == "Coding":
            found = {"system": chance.choice(SYSTEMS), "code": chance.choice(CODES), "display": chance.choice(WORDS)}
            return {key: value for key, value in found.items() if chance.random() < 0.8} or {"code": "a"}
        if name == "Extension":
            return {"url": chance.choice(SYSTEMS), "valueString": chance.choice(WORDS)}
        kind = type_of(name)
        if kind is None or name in ("Resource", "Meta"):
            return {"resourceType": "Basic", "code": {"text": "x"}} if name == "Resource" else {"source": "urn:x"}
        return self._object(kind, depth=depth + 1, share=0.3) or {"id": "e"}

    def reference(self, targets: tuple[str, ...] = ()) -> Json:
        """A reference, mostly to something that is there."""
        chance = self.chance
        kinds = [t for t in targets if self.known.get(t)] or [t for t, names in self.known.items() if names]
        draw = chance.random()
        if kinds and draw < 0.75:
            kind = chance.choice(kinds)
            return {"reference": f"{kind}/{mark(chance.choice(self.known[kind]))}"}
        if draw < 0.82:
            return {"identifier": self.of_type("Identifier")}
        if draw < 0.86:
            return {"reference": f"Patient?identifier={chance.choice(SYSTEMS)}|{chance.choice(CODES)}"}
        odd = ("Patient/1", "#a", "https://example.org/Patient/1", "Organization/00000000-0000-4000-8000-000000000000")
        return {"reference": chance.choice(odd), "display": chance.choice(WORDS)}

    def _object(self, kind: Type, *, depth: int, share: float) -> Json:
        found: Json = {}
        for element in kind.elements:
            wanted = element.least > 0 or (depth < _DEEPEST and self.chance.random() < share / (depth + 1))
            if wanted and element.types and (element.name not in ("id", "extension", "modifierExtension") or share > 1):
                name, type_name = self.chance.choice(element.json_names)
                if depth < _DEEPEST + 2 or type_name in PRIMITIVES:
                    found[name] = self._value(element, type_name, depth)
        return found

    def _value(self, element: Element, type_name: str, depth: int) -> Any:
        if not element.many:
            return self.of_type(type_name, depth=depth, targets=element.targets)
        count = self.chance.choice((1, 1, 1, 2))
        return [self.of_type(type_name, depth=depth, targets=element.targets) for _ in range(count)]


def broken(chance: random.Random, resource: Json) -> tuple[Json, str]:
    """(the resource with one mistake, what was done to it)."""
    copy: Json = {**resource}
    names = [name for name in copy if name != "resourceType"]
    draw = chance.random()
    if draw < 0.15 or not names:
        copy[chance.choice(("foo", "_foo", "Name", "valueFoo"))] = chance.choice(WRONG)
        return copy, "unknown element"
    name = chance.choice(names)
    if draw < 0.3:
        del copy[name]
        return copy, "element removed"
    if draw < 0.45:
        copy[name] = copy[name][0] if isinstance(copy[name], list) and copy[name] else [copy[name]]
        return copy, "list or not"
    if draw < 0.7 and isinstance(copy[name], dict):
        copy[name], _ = broken(chance, copy[name])
        return copy, "mistake below"
    if draw < 0.7 and isinstance(copy[name], list) and copy[name] and isinstance(copy[name][0], dict):
        copy[name] = [broken(chance, copy[name][0])[0], *copy[name][1:]]
        return copy, "mistake below a list"
    if draw < 0.75:
        copy[f"_{name}"] = chance.choice(({"extension": [{"url": "urn:x", "valueString": "y"}]}, {}, [], None, [None]))
        return copy, "primitive extension"
    wrong = chance.choice(WRONG)
    copy[name] = wrong
    return copy, f"value {type(wrong).__name__}"
