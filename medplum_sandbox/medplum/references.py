"""References that are not literal yet: conditional ones in a body, and ``urn:`` ones between the entries of a batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.formats import human_name
from medplum_sandbox.medplum.outcomes import bad_request

_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)", re.DOTALL)
Search = Callable[[str, str], list[Json]]


def resolve_conditional(resource: Json, search: Search) -> Json:
    """The resource with every ``Type?query`` reference replaced by the one resource that it finds.

    Raises 400 where there is none or more than one.
    """
    if "?" not in str(resource):  # almost always; a look at each element is spared
        return resource
    resolved: Json = _resolve(resource, resource["resourceType"], search)
    return resolved


def replace_urns(value: Any, known: dict[str, str]) -> Any:
    """The value with each text that is a known fullUrl replaced by its reference."""
    if isinstance(value, dict):
        return {k: replace_urns(v, known) for k, v in value.items()}
    if isinstance(value, list):
        return [replace_urns(v, known) for v in value]
    return known.get(value, value) if isinstance(value, str) else value


def display_of(resource: Json) -> str | None:
    """What Medplum writes as a reference's display."""
    name = resource.get("name")
    if isinstance(name, list) and name:
        return human_name(name[0])
    if isinstance(name, str):
        return name
    for key in ("title", "userName", "email"):
        if isinstance(resource.get(key), str):
            return str(resource[key])
    code = resource.get("code")
    if isinstance(code, dict):
        text = code.get("text") or next((c["display"] for c in code.get("coding", ()) if "display" in c), None)
        return str(text) if text else None
    return None


def reference_to(resource: Json) -> Json:
    """A reference to the resource, with its display where it has one."""
    found: Json = {"reference": f"{resource['resourceType']}/{resource['id']}"}
    display = display_of(resource)
    return {**found, "display": display} if display else found


def _resolve(value: Any, path: str, search: Search) -> Any:
    """The value with its references resolved. ``path`` has no positions, except that of the reference itself."""
    if isinstance(value, list):
        return [_resolve(item, f"{path}[{n}]" if _condition(item) else path, search) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    match = _condition(value)
    if match is None:
        return {k: _resolve(v, f"{path}.{k}", search) for k, v in value.items()}
    found = search(match[1], match[2])
    if not found:
        raise bad_request(f"Conditional reference '{match[0]}' did not match any resources", path)
    if len(found) > 1:
        raise bad_request(f"Conditional reference '{match[0]}' matched multiple resources", path)
    return reference_to(found[0])


def _condition(value: Any) -> re.Match[str] | None:
    text = value.get("reference") if isinstance(value, dict) else None
    return _CONDITIONAL.fullmatch(text) if isinstance(text, str) else None
