"""Requests and answers as values: the rules of the look-alike do not depend on the web framework."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from medplum_sandbox.json import Json


@dataclass(frozen=True)
class Ask:
    """A request: header names in lower case, the query as pairs in their order."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        """All values of one query parameter."""
        return [value for key, value in self.query if key == name]


@dataclass(frozen=True)
class Answer:
    """A response. ``content`` None is an empty body; text is sent as it is."""

    status: int
    content: Json | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None

    def body(self) -> bytes:
        """The bytes to send."""
        if self.content is None:
            return b""
        if isinstance(self.content, str):
            return self.content.encode()
        return json.dumps(self.content, ensure_ascii=False).encode()


class Refused(Exception):
    """The look-alike refuses; has its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer
