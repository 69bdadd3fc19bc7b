"""References to resources of one server, in any of FHIR's forms.

https://hl7.org/fhir/R4/references.html#literal: relative, absolute, and of a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

RESOURCE_TYPE: Final = re.compile(r"[A-Z][A-Za-z]{1,63}")
_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_LITERAL: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")


def is_id(value: Any) -> bool:
    """True for text of an id's form, except ``.`` and ``..``, which would change the path of a URL.

    https://hl7.org/fhir/R4/datatypes.html#id
    """
    return isinstance(value, str) and bool(_ID.fullmatch(value)) and not set(value) <= {"."}


def is_relative(value: Any) -> bool:
    """True for ``Type/id``."""
    if not isinstance(value, str):
        return False
    resource_type, _, resource_id = value.partition("/")
    return RESOURCE_TYPE.fullmatch(resource_type) is not None and is_id(resource_id)


def local(reference: str, base_url: str) -> str:
    """``Type/id`` for a relative, absolute or versioned reference to this server; any other text unchanged.

    ``base_url`` is the server's address, with or without its FHIR path (``https://x/``, ``https://x/fhir/R4``).
    """
    server = base_url.rstrip("/").removesuffix("/fhir/R4")
    relative = reference.strip()
    for prefix in (f"{server}/fhir/R4/", f"{server}/"):
        if server and relative.startswith(prefix):
            relative = relative.removeprefix(prefix)
            break
    match = _LITERAL.fullmatch(relative)
    return f"{match[1]}/{match[2]}" if match and is_id(match[2]) else reference


def forms(references: Iterable[str], base_url: str) -> str:
    """The value of a search parameter that finds ``Type/id`` references also where they are stored as absolute ones."""
    given = list(references)
    return ",".join([*given, *(f"{base_url.rstrip('/')}/{reference}" for reference in given)])


def localized(resource: Any, base_url: str) -> Any:
    """A copy of a resource whose references to this server, at any depth, are ``Type/id``."""
    if isinstance(resource, list):
        return [localized(each, base_url) for each in resource]
    if not isinstance(resource, dict):
        return resource
    return {
        name: local(value, base_url) if name == "reference" and isinstance(value, str) else localized(value, base_url)
        for name, value in resource.items()
    }
