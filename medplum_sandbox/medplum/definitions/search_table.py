"""``search_parameters.txt``: the search parameters of each resource type.

A line at the margin names a type; an indented line is a parameter: ``code type path|path >Target,Target @2``. The
targets are those that a reference may lead to (``>*`` is any resource); ``@2`` marks what puts a resource into a
patient's compartment, in this order; ``#individual-name`` is the id where it is not the type and the code.

A path is a chain of element names with dots between them. ``a/b`` are the JSON names of a choice of types, and
``value*`` stands for all of them; ``[0]`` is the first value; ``[url=...]`` keeps the values with that property;
``>Patient`` at the end keeps references to that type; ``:type`` at the end is the type of the reference; a leading
``?`` asks whether the value is there and not false; ``{stat:50,*:10}`` is the number that stands for a code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from medplum_sandbox.medplum.definitions.type_table import Types

_STEP = re.compile(r"\.?(?:(\w+)(\((.*?)\))?|\[(\d+)\])")
_MANY = 100  # so many targets are all resource types
_LONG = 20  # so many forms of a choice are written as ``value*``
_EQUAL = re.compile(r"\s*(\w+)\s*=\s*'([^']*)'\s*")


@dataclass(frozen=True, slots=True)
class Step:
    """One step down: the JSON names that stand for it (``value*`` is a beginning), and which values are kept."""

    names: tuple[str, ...]
    index: int | None = None
    key: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """Where the values of a parameter lie."""

    steps: tuple[Step, ...]
    target: str | None = None
    reference_type: bool = False
    present: bool = False
    ranks: tuple[tuple[str, float], ...] = ()  # the number that stands for a code; the last one for all others


@dataclass(frozen=True, slots=True)
class Parameter:
    """A search parameter of a type. ``targets`` are the types that a reference may lead to."""

    name: str
    type: str
    paths: tuple[Path, ...]
    targets: tuple[str, ...] = ()
    patient: int | None = None  # the place in the patient compartment's list
    id: str | None = None


def render(resources: list[dict[str, Any]], types: Types, compartment: dict[str, Any]) -> str:
    """The table of SearchParameters. A later one replaces an earlier one of the same type and code."""
    patients = {one["code"]: list(one.get("param", ())) for one in compartment["resource"]}
    found: dict[str, dict[str, str]] = {}
    for resource in resources:
        for base in resource.get("base", ()):
            known = types.get(base)
            if resource["code"].startswith("_") or known is None or not known.resource:
                continue
            line = _line(resource, base, types)
            if resource["code"] in patients.get(base, ()):
                line += f" @{patients[base].index(resource['code'])}"
            if resource.get("id", "") != f"{base}-{resource['code']}":
                line += f" #{resource['id']}"
            found.setdefault(base, {})[resource["code"]] = line
    sections = [[base, *(f" {line}" for line in found[base].values())] for base in sorted(found)]
    return "".join(f"{line}\n" for section in sections for line in section)


def read(text: str) -> dict[str, list[str]]:
    """The lines of each type, to be parsed by ``parse_line`` when the type is asked for."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            lines.append(line)
        elif line and not line.startswith("#"):
            lines = sections[line] = []
    return sections


def parse_line(line: str, resource_type: str | None = None) -> Parameter:
    """The parameter of a line of a type; those of every type have no id."""
    name, kind, written, *rest = line.split()
    targets = next((word[1:].split(",") for word in rest if word.startswith(">")), [])
    paths = () if written == "-" else tuple(parse_path(text) for text in _split(written, "|"))
    place = next((int(word[1:]) for word in rest if word.startswith("@")), None)
    id_ = next(
        (word[1:] for word in rest if word.startswith("#")), f"{resource_type}-{name}" if resource_type else None
    )
    return Parameter(name, kind, paths, tuple(targets), place, id_)


def parse_path(text: str) -> Path:
    """A path in the notation of the table."""
    body, _, ranked = text.removeprefix("?").partition("{")
    typed = body.endswith(":type")
    body, _, target = body.removesuffix(":type").partition(">")
    steps = tuple(_parse_step(step) for step in _split(body, "."))
    pairs = [pair.split(":") for pair in ranked.removesuffix("}").split(",")] if ranked else []
    ranks = tuple((code, float(number)) for code, number in pairs)
    return Path(steps, target or None, typed, text.startswith("?"), ranks)


def _line(resource: dict[str, Any], base: str, types: Types) -> str:
    expression = resource.get("expression") or ""
    paths = [path for part in _split(expression, "|") if (path := translate(part.strip(), base, types))]
    named = resource.get("target") or []
    targets = f" >{'*' if len(named) > _MANY else ','.join(named)}" if named else ""
    return f"{resource['code']} {resource['type']} {'|'.join(paths) or '-'}{targets}"


def translate(expression: str, base: str, types: Types) -> str | None:
    """The path of a FHIRPath expression, or None where it belongs to another type."""
    text = expression
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1].strip()
    asked = re.fullmatch(rf"{base}\.(\w+)\.exists\(\) and {base}\.\1 != false", text)
    if asked:
        return f"?{_names(base, asked[1], None, types)[0]}"
    if text.startswith("iif("):
        return _ranks(text)
    text = re.sub(r"^\(?([\w.]+) as (\w+)\)?", r"\1.ofType(\2)", text)
    text = re.sub(rf"^\(({base}\.[^()]*\.ofType\(\w+\))\)", r"\1", text)
    if not text.startswith(f"{base}."):
        return None
    return _Translation(base, types).run(text.removeprefix(base))


def _ranks(text: str) -> str:
    """``iif(priority = 'stat', 50, 10)`` as ``priority{stat:50,*:10}``."""
    pairs = re.findall(r"iif\((\w+) = '(\w+)', (\d+), ", text)
    (name,) = {name for name, _, _ in pairs}
    rest = text[text.rindex(", ") :].strip(", )")
    return f"{name}{{{','.join(f'{code}:{number}' for _, code, number in pairs)},*:{rest}}}"


class _Translation:
    """One expression on its way to a path: the type that the steps so far lead to, and what was written of them."""

    def __init__(self, base: str, types: Types) -> None:
        self._type: str = base
        self._types = types
        self._steps: list[str] = []
        self._open: str | None = None  # a choice whose type is not named yet
        self._suffix = ""

    def run(self, text: str) -> str:
        position = 0
        while position < len(text):
            match = _STEP.match(text, position)
            if match is None:
                raise ValueError(f"The expression cannot be translated: {text}")
            end = match.end()
            name, call, argument = match[1], match[2], match[3]
            if call is not None:
                end = text.index("(", match.start()) + _closing(text[text.index("(", match.start()) :]) + 1
                argument = text[text.index("(", match.start()) + 1 : end - 1]
            self._step(name, argument, match[4])
            position = end
        self._close(None)
        return ".".join(self._steps) + self._suffix

    def _step(self, name: str | None, argument: str | None, index: str | None) -> None:
        if index is not None:
            self._close(None)
            self._steps[-1] += f"[{index}]"
        elif argument is None and self._suffix == ":resolve":
            self._suffix = ":type"  # resolve().resourceType
        elif argument is None:
            self._close(None)
            self._open = name
        elif name in ("ofType", "as"):
            self._close(argument)
        elif name == "where" and argument.startswith("resolve() is "):
            self._close(None)
            self._suffix = f">{argument.removeprefix('resolve() is ')}"
        elif name == "where" and (equal := _EQUAL.fullmatch(argument)):
            self._close(None)
            self._steps[-1] += f"[{equal[1]}={equal[2]}]"
        elif name == "resolve":
            self._close(None)
            self._suffix = ":resolve"
        else:
            raise ValueError(f"The function {name}({argument}) cannot be translated.")

    def _close(self, kind: str | None) -> None:
        """Writes the step that is open, as the JSON names of ``kind`` where it is a choice."""
        if self._open is None:
            return
        written, leads_to = _names(self._type, self._open, kind, self._types)
        self._steps.append(written)
        self._type, self._open = leads_to, None


def _names(parent: str, name: str, kind: str | None, types: Types) -> tuple[str, str]:
    """(the JSON names with ``/`` between them, the type that they lead to)."""
    known = types.get(parent)
    element = known.by_name.get(name) or known.by_json_name.get(name) if known else None
    if element is None:  # below an Extension's value or a Resource: whatever stands there
        return name, ANY
    if element.choice and name == element.name.removesuffix("[x]"):
        chosen = [(json, one) for json, one in element.json_names if kind in (None, one)]
        written = f"{name}*" if len(chosen) > _LONG else "/".join(json for json, _ in chosen)
        return written, chosen[0][1] if len(chosen) == 1 else ANY
    return name, dict(element.json_names).get(name, ANY)


ANY = "*"


def _parse_step(text: str) -> Step:
    head, _, rest = text.partition("[")
    names = tuple(head.split("/"))
    inner = rest.removesuffix("]")
    if not inner:
        return Step(names)
    if inner.isdigit():
        return Step(names, index=int(inner))
    key, _, value = inner.partition("=")
    return Step(names, key=key, value=value)


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand outside of brackets and quotes."""
    parts, depth, start, quoted = [], 0, 0, False
    for position, sign in enumerate(text):
        if sign == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif sign in "([":
            depth += 1
        elif sign in ")]":
            depth -= 1
        elif sign == mark and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _closing(text: str) -> int:
    """Where the bracket closes that the text begins with."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return position
    return -1
