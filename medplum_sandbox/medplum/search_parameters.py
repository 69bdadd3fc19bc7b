"""The search parameters of the resource types, read from ``search_parameters.txt``, which explains its notation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from medplum_sandbox.medplum.structure import Element, Shape, shape

TYPES = {
    "t": "token",
    "s": "string",
    "r": "reference",
    "d": "date",
    "u": "uri",
    "n": "number",
    "q": "quantity",
}

_COMMON = (
    "_compartment:r=meta.compartment _profile:u=meta.profile _security:t=meta.security _source:u=meta.source "
    "_tag:t=meta.tag"
)
# A type without a line of its own has those of these that its definition has an element for.
_FALLBACK = "identifier:t status:t code:t name:s title:s url:u date:d type:t category:t subject:r patient:r encounter:r"


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value lies: the element names of the way down, the ContactPoint system kept, the reference's type."""

    steps: tuple[tuple[str, ...], ...]
    system: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A search parameter of a type. ``targets`` are the types that a reference may lead to."""

    name: str
    type: str
    paths: tuple[Path, ...]
    targets: tuple[str, ...] = ()


def _read(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            for word in line.split():
                found[name] += found[word] if word.startswith("@") else [word]
        elif line and not line.startswith("#"):
            name = line
            found[name] = []
    return {name: " ".join(words) for name, words in found.items() if not name.startswith("@")}


_TABLE = _read(files(__package__).joinpath("search_parameters.txt").read_text(encoding="utf-8"))
SUPPORTED_TYPES = tuple(sorted(_TABLE))


@cache
def parameters(resource_type: str) -> dict[str, Parameter]:
    """The parameters that are kept in the index, by name. ``_id`` and ``_lastUpdated`` are columns of their own."""
    kind = shape(resource_type)
    if kind is None:
        return {}
    words = f"{_TABLE[resource_type]} {_COMMON}".split() if resource_type in _TABLE else _fallback(kind)
    found = [_parameter(word, kind) for word in words]
    return {p.name: p for p in found}


def _fallback(kind: Shape) -> list[str]:
    return [w for w in _FALLBACK.split() if w.partition(":")[0] in kind.elements] + _COMMON.split()


def _parameter(word: str, kind: Shape) -> Parameter:
    head, named, where = word.partition("=")
    name, _, letter = head.partition(":")
    paths: list[Path] = []
    targets: list[str] = []
    for text in where.split("|") if where else () if named else (name,):
        dotted, _, only = text.partition(">")
        dotted, _, system = dotted.partition("/")
        steps, elements = _walk(dotted, kind)
        paths.append(Path(steps, system or None, only or None))
        targets += [only] if only else [t for e in elements for t in e.targets]
    return Parameter(name, TYPES[letter], tuple(paths), tuple(dict.fromkeys(targets)))


def _walk(dotted: str, kind: Shape) -> tuple[tuple[tuple[str, ...], ...], list[Element]]:
    """The element names of each step (several for a choice), and the elements at the end."""
    steps: list[tuple[str, ...]] = []
    here: Shape | None = kind
    last: list[Element] = []
    for step in dotted.split("."):
        if here is None:
            raise ValueError(f"The path {dotted} leads nowhere in {kind.name}.")
        known = here.elements
        last = [e for e in known.values() if e.choice == step[:-1]] if step.endswith("*") else [known[step]]
        steps.append(tuple(e.name for e in last))
        here = shape(last[0].type) if last and not last[0].primitive else None
    if not last:
        raise ValueError(f"The path {dotted} leads nowhere in {kind.name}.")
    return tuple(steps), last
