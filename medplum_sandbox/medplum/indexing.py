"""What a search can find a resource by: its index rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.dates import start_of
from medplum_sandbox.medplum.definitions.search_table import Path, Step
from medplum_sandbox.medplum.definitions.tables import parameters
from medplum_sandbox.medplum.formats import address_text, family_of, given_of, human_name, text_of
from medplum_sandbox.medplum.search_strategy import Details, Strategy, details
from medplum_sandbox.medplum.store import IndexRow

WHOLE = ":whole"  # the text as it is, or all of its words in one row
TEXT = ":text"
IDENTIFIER = ":identifier"
_LOCAL_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([^/?#]+)(/_history/.*)?")
_WORDS = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def index_rows(resource: Json) -> list[IndexRow]:
    """The rows of all parameters of the resource's type, each once."""
    found: dict[IndexRow, None] = {}
    paths = _paths(resource["resourceType"])
    for name in resource:
        for known, path in paths.get(name, ()):
            for value in walk(resource, path.steps):
                for row in _rows(known, path, value):
                    found[row] = None
    for known, path in paths.get("?", ()):
        values = list(walk(resource, path.steps))
        if path.ranks:
            ranks = dict(path.ranks)
            found[IndexRow(known.name, ranks.get(str(values[0]) if values else "", ranks["*"]))] = None
        else:
            found[IndexRow(known.name, "true" if any(value is not False for value in values) else "false")] = None
    return list(found)


@cache
def _paths(resource_type: str) -> dict[str, list[tuple[Details, Path]]]:
    """The paths of a type's parameters by their first element; ``?`` holds those that always have a value."""
    found: dict[str, list[tuple[Details, Path]]] = {}
    for code in parameters(resource_type):
        known = details(resource_type, code)
        assert known is not None
        for path in known.parameter.paths:
            for name in ("?",) if path.present or path.ranks else path.steps[0].names:
                found.setdefault(name, []).append((known, path))
    return found


def walk(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    """Every value at the end of the path, lists opened."""
    if isinstance(value, list):
        for item in value:
            yield from walk(item, steps)
    elif not steps:
        if value is not None:
            yield value
    elif isinstance(value, dict):
        step = steps[0]
        for name in step.names:
            if name.endswith("*"):
                for one in [v for k, v in value.items() if k.startswith(name[:-1])]:
                    yield from walk(_kept(step, one), steps[1:])
            elif name in value:
                yield from walk(_kept(step, value[name]), steps[1:])


def _kept(step: Step, value: Any) -> Any:
    """What a step keeps of a value: one place of a list, or what has a certain property."""
    if step.index is not None:
        return value[step.index : step.index + 1] if isinstance(value, list) else value
    if step.key is not None:
        values = value if isinstance(value, list) else [value]
        return [one for one in values if isinstance(one, dict) and one.get(step.key) == step.value]
    return value


def references(resource: Json, known: Details) -> list[str]:
    """The literal references that a parameter finds in a resource."""
    return [
        value["reference"]
        for path in known.parameter.paths
        for value in walk(resource, path.steps)
        if isinstance(value, dict) and isinstance(value.get("reference"), str) and _wanted(value["reference"], path)
    ]


def split_reference(reference: str) -> tuple[str, str]:
    """(type, id) of a reference within the server; ("", text) of any other."""
    match = _LOCAL_REFERENCE.fullmatch(reference)
    return (match[1], match[2]) if match else ("", reference)


def words(text: str) -> list[str]:
    """The words of a text as they are compared: lower case, diacritics kept; a compound, then its parts."""
    found = []
    for word in _WORDS.findall(text.lower()):
        found.append(word)
        found += word.split("-") if "-" in word else []
    return found


def _rows(known: Details, path: Path, value: Any) -> Iterator[IndexRow]:
    match known.strategy:
        case Strategy.TOKENS:
            yield from _tokens(known, value)
        case Strategy.WORDS:
            yield from _word_rows(known.name, value)
        case Strategy.TEXT:
            if text := text_of(value):
                yield IndexRow(known.name, text.lower(), text)
        case Strategy.BOOLEAN:
            yield IndexRow(known.name, "true" if value in (True, "true") else "false")
        case Strategy.CODE:
            yield from _code(known.name, path, value)
        case Strategy.REFERENCE:
            yield from _reference(known.name, path, value)
        case Strategy.DATE:
            if (start := start_of(value)) is not None:
                yield IndexRow(known.name, start[:10] if known.types == {"date"} else start)
        case Strategy.NUMBER:
            yield from _number(known.name, value)


def _word_rows(name: str, value: Any) -> Iterator[IndexRow]:
    text = _looked_up(name, value)
    found = words(text)
    if not text:
        return
    yield IndexRow(name + WHOLE, " ".join(("", *found)), text)
    for word in found:
        yield IndexRow(name, word)


def _looked_up(name: str, value: Any) -> str:
    """The text that a name or address is found by."""
    if not isinstance(value, dict):
        return str(value).strip()
    match name:
        case "given":
            return given_of(value)
        case "family":
            return family_of(value)
        case "address":
            return address_text(value)
    return human_name(value, with_text=True)


def _tokens(known: Details, value: Any) -> Iterator[IndexRow]:
    """(system, value) of everything that has one, and the texts that ``:text`` looks at."""
    name = known.name
    if not isinstance(value, dict):
        text = "true" if value is True else "false" if value is False else str(value)
        yield from _token(known, "", text)
        return
    for coding in value.get("coding") or ():
        if isinstance(coding, dict):
            yield from _token(known, coding.get("system"), coding.get("code"))
            yield from _text_rows(name, coding.get("display"))
    is_concept = "coding" in value or "CodeableConcept" in known.types
    kind = value.get("type")
    yield from _text_rows(name, value.get("text") if is_concept else value.get("display"))
    yield from _text_rows(name, kind.get("text") if isinstance(kind, dict) else None)
    yield from _token(known, value.get("system"), value.get("value", value.get("code")))


def _token(known: Details, system: Any, value: Any) -> Iterator[IndexRow]:
    text = "" if value is None else str(value).strip()
    where = system.strip() if isinstance(system, str) else ""
    if text or where:
        shown = text.lower() if known.fold else text
        yield IndexRow(known.name, shown, where)
        if known.contacts and shown:
            yield IndexRow(known.name + TEXT, shown)


def _text_rows(name: str, text: Any) -> Iterator[IndexRow]:
    """A display or text is found by ``:text``, and as a token without a system."""
    if isinstance(text, str) and text.strip():
        yield IndexRow(name + TEXT, text.strip().lower())
        yield IndexRow(name, text.strip(), "\u0000text")


def _code(name: str, path: Path, value: Any) -> Iterator[IndexRow]:
    if path.reference_type:
        value = split_reference(str(value.get("reference", "")))[0] if isinstance(value, dict) else value
    if isinstance(value, dict):
        value = value.get("value", value.get("code"))
    if value not in (None, ""):
        yield IndexRow(name, "true" if value is True else "false" if value is False else str(value))


def _reference(name: str, path: Path, value: Any) -> Iterator[IndexRow]:
    if isinstance(value, str):
        yield IndexRow(name, value, "")
        return
    if not isinstance(value, dict):
        return
    identifier = value.get("identifier")
    if not isinstance(identifier, dict) or path.target is not None:
        identifier = {}
    reference = value.get("reference")
    if isinstance(reference, str):
        if _wanted(reference, path):
            kind, id_ = split_reference(reference)
            yield IndexRow(name, id_, kind)
    elif isinstance(value.get("resourceType"), str) and "id" in value:
        yield IndexRow(name, str(value["id"]), value["resourceType"])
    elif identifier:
        yield IndexRow(name, f"identifier:{identifier.get('system')}|{identifier.get('value')}", "")
    if "value" in identifier:
        yield IndexRow(name + IDENTIFIER, str(identifier["value"]), identifier.get("system") or "")


def _number(name: str, value: Any) -> Iterator[IndexRow]:
    """A number, the value of a Quantity, or the low end of a Range, else its high end."""
    if isinstance(value, dict):
        ends = [value[end].get("value") for end in ("low", "high") if isinstance(value.get(end), dict)]
        value = value.get("value", next((end for end in ends if end is not None), None))
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield IndexRow(name, float(value))


def _wanted(reference: str, path: Path) -> bool:
    return path.target is None or reference.startswith(f"{path.target}/")
