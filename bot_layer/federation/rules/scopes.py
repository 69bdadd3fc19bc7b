"""SMART scopes of the federated responder: what a client is granted, and what a token permits.

https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html: ``system/DocumentReference.rs`` (version 2) and
``system/DocumentReference.read`` (version 1, which means ``rs``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_SCOPE: Final = re.compile(r"(system|user)/(\*|[A-Za-z]+)\.(read|write|\*|c?r?u?d?s?)")
_PERMISSIONS: Final = {"read": "rs", "write": "cud", "*": "cruds"}
SEARCH: Final = ("DocumentReference", "s")
"""What a DocumentReference search needs."""
FETCH: Final = (("Binary", "r"), ("DocumentReference", "r"))
"""Either of these permits the fetch of a document: the partner's token is the one of its search."""


@dataclass(frozen=True)
class Scope:
    """One scope: ``system`` or ``user``, a resource type or ``*``, and the letters of its permissions."""

    context: str
    resource_type: str
    permissions: str
    text: str

    def narrowed_to(self, other: Scope) -> str | None:
        """The intersection of both scopes, in the notation of the narrower one; None if it is empty."""
        types = {self.resource_type, other.resource_type} - {"*"} or {"*"}
        permissions = "".join(
            letter for letter in "cruds" if letter in self.permissions and letter in other.permissions
        )
        if self.context != other.context or len(types) > 1 or not permissions:
            return None
        (resource_type,) = types
        for scope in (self, other):
            if (scope.resource_type, set(scope.permissions)) == (resource_type, set(permissions)):
                return scope.text
        return f"{self.context}/{resource_type}.{permissions}"


def read(text: str) -> Scope | None:
    """Parse a scope; None for one that does not apply here (``openid``, ``create``, a placeholder)."""
    match = _SCOPE.fullmatch(text)
    if match is None or not match[3]:
        return None
    return Scope(match[1], match[2], _PERMISSIONS.get(match[3], match[3]), text)


def granted(own: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """The scopes to grant: the requested scopes that the client may have, or all of its own if there are none.

    ``own`` are the client's. A scope wider than the client's is narrowed to it. Scopes that do not apply here, or that
    the client may not have, are ignored: a partner's sample requests ``create``.
    """
    mine, wanted = ([scope for scope in map(read, texts) if scope] for texts in (own, asked))
    found = [narrowed for each in wanted for scope in mine if (narrowed := each.narrowed_to(scope))]
    return tuple(dict.fromkeys(found)) or tuple(own)


def permit(scopes: Iterable[str], *needs: tuple[str, str]) -> bool:
    """Whether the scopes of a token permit one of the needs, each a resource type and a letter."""
    known = [scope for scope in map(read, scopes) if scope is not None]
    return any(
        scope.resource_type in ("*", resource_type) and letter in scope.permissions
        for scope in known
        for resource_type, letter in needs
    )
