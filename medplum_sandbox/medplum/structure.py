"""What FHIR R4 and Medplum allow in each type, as tables compiled from two libraries' models.

``fhir.resources`` knows the standard's types with their primitives and choices (its R4B differs from R4 only in
resources on evidence, which nobody here uses); ``pymedplum`` knows Medplum's own types (Bot, Project, ...).
"""

from __future__ import annotations

import importlib
import re
import types
import typing
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from fhir.resources.R4B import get_fhir_model_class

PRIMITIVES = frozenset(
    (
        *("base64Binary", "boolean", "canonical", "code", "date", "dateTime", "decimal", "id", "instant", "integer"),
        *("markdown", "oid", "positiveInt", "string", "time", "unsignedInt", "uri", "url", "uuid", "xhtml"),
    )
)
ANY_RESOURCE = "Resource"

# Medplum keeps these in every resource's meta (https://www.medplum.com/docs/access/projects).
_META = {
    "project": "uri",
    "author": "Reference",
    "onBehalfOf": "Reference",
    "account": "Reference",
    "accounts": "Reference*",
    "compartment": "Reference*",
}
_PYTHON = {"str": "string", "bool": "boolean", "int": "integer", "float": "decimal", "int | float": "decimal"}
_MARKERS = {"EncodedBytes": "base64Binary", "UuidVersion": "uuid"}
# The names that Medplum's models spell with a choice, and whether one is required.
_CHOICES = {"ProjectSetting": {"value": True}, "ProjectMembershipAccessParameter": {"value": True}}


@dataclass(frozen=True, slots=True)
class Element:
    """One property of a type: the name of its type, whether it is a list, and which reference targets it names."""

    name: str
    type: str
    many: bool = False
    required: bool = False
    choice: str | None = None
    targets: tuple[str, ...] = ()
    position: int = 0

    @property
    def primitive(self) -> bool:
        """Whether its values are JSON strings, numbers or booleans."""
        return self.type in PRIMITIVES


@dataclass(frozen=True, slots=True)
class Shape:
    """A type: its elements by JSON name, and what must be there as (label, JSON names)."""

    name: str
    elements: dict[str, Element]
    resource: bool = False
    required: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


@cache
def shape(name: str) -> Shape | None:
    """The table of a data type or resource type, or None where no such type is known."""
    elements = _standard(name)
    resource = elements is not None and _is_resource(name)
    if elements is None:
        found = _medplum(name)
        if found is None:
            return None
        elements, resource = found
    if name == "Meta":
        elements += [Element(n, t.rstrip("*"), many=t.endswith("*")) for n, t in _META.items()]
    placed = [replace(e, position=n) for n, e in enumerate(elements)]
    return Shape(name, {e.name: e for e in placed}, resource, _required(placed))


@cache
def is_resource_type(name: str) -> bool:
    """Whether Medplum has an end point for the type."""
    found = shape(name) if re.fullmatch(r"[A-Z][A-Za-z]+", name) else None
    return found is not None and found.resource and name not in ("Resource", "DomainResource")


def _required(elements: list[Element]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    labels: dict[str, tuple[str, ...]] = {}
    for element in elements:
        if element.choice is not None and element.required:
            label = f"{element.choice}[x]"
            labels[label] = (*labels.get(label, ()), element.name)
        elif element.required:
            labels[element.name] = (element.name,)
    return tuple(labels.items())


def _standard(name: str) -> list[Element] | None:
    try:
        model = get_fhir_model_class(name)
    except ValueError:
        return None
    fields = {info.alias or key: info for key, info in model.model_fields.items()}
    found = []
    for key in model.elements_sequence():
        info = fields.get(key)
        if info is None:
            continue
        extra = info.json_schema_extra
        facts: dict[str, Any] = extra if isinstance(extra, dict) else {}
        type_name, many = _annotation(info.annotation)
        required = info.is_required() or bool(facts.get("element_required") or facts.get("one_of_many_required"))
        targets = tuple(facts.get("enum_reference_types") or ())
        found.append(Element(key, type_name, many, required, facts.get("one_of_many"), targets))
    return found


def _is_resource(name: str) -> bool:
    return any(base.__name__ == "Resource" for base in get_fhir_model_class(name).__mro__)


def _annotation(annotation: Any) -> tuple[str, bool]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in typing.get_args(annotation) if a is not type(None))
        return _annotation(inner)
    if origin is list:
        return _annotation(typing.get_args(annotation)[0])[0], True
    if origin is typing.Annotated:
        marker = type(typing.get_args(annotation)[1]).__name__
        return _MARKERS.get(marker, marker[0].lower() + marker[1:]), False
    if annotation is bool:
        return "boolean", False
    return annotation.__name__.removesuffix("Type"), False


def _medplum(name: str) -> tuple[list[Element], bool] | None:
    for module in _modules(name):
        model = getattr(module, name, None)
        if model is None or "model_fields" not in dir(model):
            continue
        choices = _CHOICES.get(name, {})
        found = []
        for key, annotation in model.__annotations__.items():
            if key == "resource_type" and annotation.startswith("Literal"):
                continue
            info = model.model_fields[key]
            json_name = info.alias or key
            choice = next((c for c in choices if json_name.startswith(c) and json_name != c), None)
            required = choices[choice] if choice else info.is_required()
            type_name, many = _text_annotation(annotation)
            found.append(Element(json_name, type_name, many, required, choice))
        return found, "id" in model.model_fields and "resource_type" in model.model_fields
    return None


def _modules(name: str) -> typing.Iterator[types.ModuleType]:
    """The modules that may define the type: a backbone element stands in its resource's module."""
    for end in range(len(name), 1, -1):
        try:
            yield importlib.import_module(f"pymedplum.fhir.{name[:end].lower()}")
        except ModuleNotFoundError:
            continue


def _text_annotation(annotation: str) -> tuple[str, bool]:
    text = annotation.removesuffix(" | None").strip()
    many = text.startswith("list[")
    if many:
        text = text[5:-1]
    if text.startswith(("Literal", "ResourceType")):
        return "code", many
    if text.startswith("dict"):
        return ANY_RESOURCE, many
    return _PYTHON.get(text, text), many
