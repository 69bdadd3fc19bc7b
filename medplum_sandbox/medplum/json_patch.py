"""JSON Patch with Medplum's messages."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request


def apply_patch(resource: Json, operations: Any) -> Json:
    """The patched copy, or 400 for the first operation that fails: then nothing has changed."""
    if not isinstance(operations, list):
        raise bad_request("Invalid patch")
    patched = copy.deepcopy(resource)
    for operation in operations:
        patched = _apply(patched, operation)
    return patched


def _apply(resource: Json, operation: Any) -> Json:
    try:
        applied: Json = jsonpatch.JsonPatch([operation]).apply(resource)
    except jsonpatch.JsonPatchTestFailed:
        found = _found(resource, operation["path"])
        raise bad_request(f"Test failed: {found} != {_written(operation.get('value'))}") from None
    except (jsonpatch.JsonPatchConflict, JsonPointerException):
        raise bad_request(f"Value required at path: {operation['path']}") from None
    except (jsonpatch.JsonPatchException, TypeError):
        raise bad_request("Invalid patch") from None
    return applied


def _found(resource: Json, path: str) -> str:
    try:
        return _written(jsonpatch.JsonPointer(path).resolve(resource))
    except JsonPointerException:
        return "undefined"


def _written(value: Any) -> str:
    """As JavaScript writes a value into a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, list):
        return ",".join(_written(item) for item in value)
    return "null" if value is None else str(value)
