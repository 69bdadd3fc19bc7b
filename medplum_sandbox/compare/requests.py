"""A request of the generator: the same for both servers, with names in place of ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# A name for a resource that both servers hold; the session puts the server's own id in its place.
MARK = "~"
# An id that no resource has.
NOBODY = "00000000-0000-4000-8000-000000000000"
# The name of the login whose AccessPolicy allows a part; without it a request is sent as the administrator.
RESTRICTED = "restricted"
PROJECT = "project"


def mark(name: str) -> str:
    """The placeholder for the id of a named resource."""
    return f"{MARK}{name}{MARK}"


def version_mark(name: str) -> str:
    """The placeholder for the newest known version of a named resource."""
    return mark(f"{name}_version")


@dataclass(frozen=True)
class Request:
    """One request. ``kind`` says what is tried; ``creates`` names the resource that a success makes.

    ``changes`` names a resource that the request may change or delete; ``ordered`` says that the order of the entries
    was asked for; ``creates_entries`` names what each entry of a batch makes, or None. A path that begins with a slash
    is one of the server, any other one of its FHIR API.
    """

    kind: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    creates: str | None = None
    changes: str | None = None
    ordered: bool = False
    creates_entries: tuple[str | None, ...] = ()
    deletes: bool = False
    login: str | None = None
