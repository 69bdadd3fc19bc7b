"""How lines become the bytes of a file: NDJSON, clean or messy, or the other shapes that servers send in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import orjson

_PIECE: Final = 256 * 1024
# before the first line, between lines, after the last one
_FRAMES: Final = {
    "ndjson": (b"", b"\n", b"\n"),
    "messy": (b"\xef\xbb\xbf", b"\r\n\r\n", b""),
    "pretty": (b"", b"\n", b"\n"),
    "array": (b"[\n", b",\n", b"\n]\n"),
    "bundle": (b'{"resourceType": "Bundle", "type": "collection", "entry": [\n', b",\n", b"\n]}\n"),
}


class Lines:
    """A file of resources in memory; read without joining them all."""

    def __init__(self, lines: list[bytes], *, shape: str = "ndjson", text: str = "compact") -> None:
        self.shape = shape
        self.count = len(lines)
        self._frame = _FRAMES[shape]
        self._lines = [_dress(line, shape, text) for line in lines] if (shape, text) != ("ndjson", "compact") else lines
        first, between, last = self._frame
        self.size = len(first) + sum(map(len, self._lines)) + len(between) * max(0, self.count - 1) + len(last)

    def with_bad_line(self) -> Lines:
        """The same file with its middle line cut off half way: one resource cannot be read."""
        lines = list(self._lines)
        middle = len(lines) // 2
        lines[middle] = lines[middle][: len(lines[middle]) // 2]
        spoilt = Lines(lines)
        spoilt._frame, spoilt.shape = self._frame, self.shape
        spoilt.size = self.size - len(self._lines[middle]) + len(lines[middle])
        return spoilt

    def read(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, in pieces of about a quarter of a megabyte."""
        for piece in self._pieces():
            if start >= len(piece):
                start -= len(piece)
                continue
            yield piece[start:]
            start = 0

    def _pieces(self) -> Iterator[bytes]:
        first, between, last = self._frame
        held, size = [first], 0
        for number, line in enumerate(self._lines):
            if number:
                held.append(between)
            held.append(line)
            size += len(line)
            if size >= _PIECE:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join([*held, last])


def cut(lines: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Parts of at most ``size`` lines."""
    for start in range(0, len(lines), size):
        yield lines[start : start + size]


def _dress(line: bytes, shape: str, text: str) -> bytes:
    if shape == "pretty":
        return orjson.dumps(orjson.loads(line), option=orjson.OPT_INDENT_2)
    if shape == "bundle":
        return b'{"resource": ' + line + b"}"
    if text == "spaced":
        return json.dumps(dict(reversed(orjson.loads(line).items())), ensure_ascii=False).encode()
    if text == "ascii":
        return json.dumps(orjson.loads(line)).encode()
    if text == "slashes":
        return line.replace(b"/", b"\\/")
    return line
