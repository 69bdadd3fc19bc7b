"""Files of any size that are generated while they are read, so that neither side needs the memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import orjson

BIG_UPDATED: Final = datetime(2024, 1, 1, tzinfo=UTC)
_NUMBER: Final = b"000000000000"
_LINES_AT_ONCE: Final = 500


class BigFile:
    """NDJSON of one type: all lines equally long, each with its own id; about ``size`` bytes, always the same."""

    def __init__(self, kind: str, size: int, *, patient: str, line_bytes: int = 1200) -> None:
        self.kind = kind
        self._before, self._middle, self._after = _line(kind, patient, line_bytes)
        self._line_size = len(self._before) + len(self._middle) + len(self._after) + 2 * len(_NUMBER)
        self.count = max(1, size // self._line_size)
        self.size = self.count * self._line_size

    def read(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, in pieces of about half a megabyte."""
        first, skip = divmod(start, self._line_size)
        for number in range(first, self.count, _LINES_AT_ONCE):
            piece = b"".join(self._at(n) for n in range(number, min(number + _LINES_AT_ONCE, self.count)))
            yield piece[skip:]
            skip = 0

    def _at(self, number: int) -> bytes:
        digits = b"%012d" % number
        return self._before + digits + self._middle + digits + self._after


def stream_ndjson(kind: str, size_bytes: int, *, patient: str = "pf-1") -> Iterator[bytes]:
    """Pieces of an NDJSON file of about ``size_bytes``; nothing is stored."""
    return BigFile(kind, size_bytes, patient=patient).read()


def _line(kind: str, patient: str, size: int) -> tuple[bytes, bytes, bytes]:
    """One line, cut at its two numbers: the id, and an identifier."""
    resource = {
        "resourceType": kind,
        "id": "big-" + _NUMBER.decode(),
        "meta": {"versionId": "1", "lastUpdated": BIG_UPDATED.isoformat()},
        "identifier": [{"system": "https://numbers.example.org/big", "value": _NUMBER.decode()}],
        **_BODY.get(kind, {}),
    }
    if kind != "Patient":
        resource["subject"] = {"reference": f"Patient/{patient}"}
    missing = size - len(orjson.dumps(resource)) - 110
    if missing > 0:
        resource["text"] = {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{"Wörter " * (missing // 8)}</div>',
        }
    before, middle, after = (orjson.dumps(resource) + b"\n").split(_NUMBER)
    return before, middle, after


_BODY: Final[dict[str, dict[str, object]]] = {
    "Observation": {"status": "final", "code": {"text": "Synthetic measurement"}, "valueInteger": 7},
    "Condition": {"code": {"text": "Synthetic problem"}},
    "Encounter": {"status": "finished", "class": {"code": "AMB"}},
}
