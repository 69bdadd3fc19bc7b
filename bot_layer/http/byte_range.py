"""The Range header: one span of bytes, or what to answer instead.

https://www.rfc-editor.org/rfc/rfc9110#section-14
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Span:
    """Bytes from ``start`` up to, without, ``end``."""

    start: int
    end: int


@dataclass(frozen=True)
class Unsatisfiable:
    """The span begins behind the last byte: 416."""


def byte_range(header: str | None, length: int | None) -> Span | Unsatisfiable | None:
    """The span asked for; None where all is to be sent: no range, several, another unit, or an unknown length."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header and len(header) < 60 else None
    if match is None or length is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return Span(max(0, length - int(last)), length) if int(last) and length else Unsatisfiable()
    if last and int(last) < int(first):
        return None
    if int(first) >= length:
        return Unsatisfiable()
    return Span(int(first), min(int(last) + 1, length) if last else length)
