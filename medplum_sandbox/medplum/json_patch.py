"""JSON Patch as a Medplum server applies it (https://datatracker.ietf.org/doc/html/rfc6902), with its messages.

The server's library differs from the standard: every operation is tried and all failures are reported together, an
index beyond the end of a list appends, and ``/-`` makes the list that is not there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request

_MISSING: Final = object()
_INDEX = re.compile(r"\s*(\d+)")


class _Failure(Exception):  # what the server reports of one operation; the others are still tried
    """Why an operation fails."""


def apply_patch(resource: Json, operations: Any) -> Json:
    """The patched copy, or 400 with every operation that fails: then nothing has changed."""
    if operations in (None, "", 0, False):
        raise bad_request("Empty patch body")
    if not isinstance(operations, list):
        raise bad_request("Patch body must be an array")
    patched = copy.deepcopy(resource)
    failures = []
    for operation in operations:
        try:
            _apply(patched, operation)
        except _Failure as failure:
            failures.append(str(failure))
    if failures:
        raise bad_request("\n".join(failures))
    return patched


@dataclass(frozen=True)
class _Place:
    """Where a pointer leads: the value there, and its parent with the key."""

    parent: Any
    key: str
    value: Any


def _apply(document: Json, operation: Any) -> None:
    if operation is None:
        raise bad_request("Cannot read properties of null (reading 'op')")
    fields = operation if isinstance(operation, dict) else {}
    verb = fields.get("op", "undefined")
    action = _ACTIONS.get(verb) if isinstance(verb, str) else None
    if action is None:
        raise _Failure(f"Invalid operation: {_written(verb)}")
    action(document, fields)


def _add(document: Json, operation: Json) -> None:
    path = operation.get("path", _MISSING)
    tokens = _tokens(path)
    if tokens[-1:] == ["-"]:
        above = _walk(document, tokens[:-1])
        if above.value is _MISSING and isinstance(above.parent, dict):
            above.parent[above.key] = []
    place = _walk(document, tokens)
    if place.parent is _MISSING or (place.key == "-" and not isinstance(place.parent, list)):
        raise _Failure(_required(path))
    _put(place, copy.deepcopy(operation.get("value", _MISSING)))


def _remove(document: Json, operation: Json) -> None:
    place = _present(document, operation.get("path", _MISSING))
    _drop(place)


def _replace(document: Json, operation: Json) -> None:
    path = operation.get("path", _MISSING)
    place = _walk(document, _tokens(path))
    if place.parent is None:
        raise _Failure(_required(path))
    value = copy.deepcopy(operation.get("value", _MISSING))
    if isinstance(place.parent, list):
        index = _index(place.key)
        if index is not None and index >= len(place.parent):
            raise _Failure(_required(path))
        if index is not None:
            place.parent[index] = None if value is _MISSING else value
    elif place.value is _MISSING:
        raise _Failure(_required(path))
    else:
        _put(place, value)


def _move(document: Json, operation: Json) -> None:
    source = _present(document, operation.get("from", _MISSING))
    target = _target(document, operation)
    _drop(source)
    _put(target, source.value)


def _copy(document: Json, operation: Json) -> None:
    source = _present(document, operation.get("from", _MISSING))
    _put(_target(document, operation), copy.deepcopy(source.value))


def _test(document: Json, operation: Json) -> None:
    found = _walk(document, _tokens(operation.get("path", _MISSING))).value
    expected = operation.get("value", _MISSING)
    if found != expected or isinstance(found, bool) != isinstance(expected, bool):
        raise _Failure(f"Test failed: {_written(found)} != {_written(expected)}")


_ACTIONS: dict[str, Callable[[Json, Json], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


def _target(document: Json, operation: Json) -> _Place:
    path = operation.get("path", _MISSING)
    place = _walk(document, _tokens(path))
    if place.parent is _MISSING:
        raise _Failure(_required(path))
    return place


def _present(document: Json, path: Any) -> _Place:
    place = _walk(document, _tokens(path))
    if place.value is _MISSING:
        raise _Failure(_required(path))
    return place


def _tokens(path: Any) -> list[str]:
    """The steps of a JSON Pointer (https://datatracker.ietf.org/doc/html/rfc6901)."""
    if not isinstance(path, str):
        kind = "undefined" if path is _MISSING else "null"
        raise bad_request(f"Cannot read properties of {kind} (reading 'split')")
    first, *tokens = path.split("/")
    if first:
        raise bad_request(f"Invalid JSON Pointer: {path}")
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def _walk(document: Json, tokens: list[str]) -> _Place:
    place = _Place(None, "", document)
    for token in tokens:
        parent = place.value
        value: Any = _MISSING
        if isinstance(parent, dict):
            value = parent.get(token, _MISSING)
        elif isinstance(parent, list) and token.isdigit() and int(token) < len(parent):
            value = parent[int(token)]
        place = _Place(parent, token, value)
    return place


def _put(place: _Place, value: Any) -> None:
    parent, key = place.parent, place.key
    if isinstance(parent, list):
        item = None if value is _MISSING else value
        index = len(parent) if key == "-" else _index(key) or 0
        parent.insert(index, item)
    elif isinstance(parent, dict):
        if value is _MISSING:
            parent.pop(key, None)
        else:
            parent[key] = value
    elif parent is None:
        raise bad_request(f"Cannot set properties of null (setting '{key}')")
    else:
        kind = "string" if isinstance(parent, str) else "boolean" if isinstance(parent, bool) else "number"
        raise bad_request(f"Cannot create property '{key}' on {kind} '{_written(parent)}'")


def _drop(place: _Place) -> None:
    if isinstance(place.parent, list):
        del place.parent[_index(place.key) or 0]
    elif isinstance(place.parent, dict):
        place.parent.pop(place.key, None)
    else:
        raise bad_request("Cannot convert undefined or null to object")


def _index(key: str) -> int | None:
    match = _INDEX.match(key)
    return int(match[1]) if match else None


def _required(path: Any) -> str:
    return f"Value required at path: {path}"


def _written(value: Any) -> str:
    """As JavaScript writes a value into a text."""
    if value is _MISSING:
        return "undefined"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, list):
        return ",".join("" if item is None else _written(item) for item in value)
    return "null" if value is None else str(value)
