"""Reads resources from a stream of bytes, wherever it is cut; a bad line is reported, and never stops the rest.

Lines are NDJSON (http://ndjson.org/), and the variants that sources send are accepted too: a byte order mark, CRLF,
empty lines, no final newline, one resource formatted over many lines, an array, a Bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import is_source_id
from bot_layer.fhir.json import Json, decode, objects

Loads = Callable[[bytes], Any]
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r"
DOCUMENT_LIMIT: Final = 64 * 1024 * 1024
_TOO_LONG: Final = b"\0"  # replaces a line that would fill the memory; no JSON begins like this


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not empty, with its number in the file (from 1); the text has no line end."""

    number: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource and the line where it begins.

    ``raw`` is that line, or empty if it stood in a larger document. ``key`` is None where the resource has no usable id
    or its meta is not an object.
    """

    number: int
    key: Key | None
    value: Json = field(repr=False)
    raw: bytes = field(default=b"", repr=False)

    @property
    def type(self) -> str:
        """The resource type."""
        return str(self.value["resourceType"])


def resource_of(value: Json, number: int = 0, raw: bytes = b"") -> Resource:
    """Wrap a resource that is already parsed."""
    fit = is_source_id(value.get("id")) and isinstance(value.get("meta", {}), dict)
    return Resource(number, Key(value["resourceType"], value["id"]) if fit else None, value, raw)


def unusable(resource: Resource) -> str:
    """Why a resource must not be written, or an empty text. One that lacks elements must not replace the whole one.

    https://hl7.org/fhir/R4/search.html#elements, https://terminology.hl7.org/CodeSystem-v3-ObservationValue.html
    """
    if resource.key is None:
        return "its id or its meta is none of FHIR's"
    tags = objects(resource.value.get("meta", {}).get("tag"))
    is_part = any(each.get("code") == "SUBSETTED" for each in tags)
    return "only a part of a resource (tagged SUBSETTED)" if is_part else ""


@dataclass(frozen=True)
class BadLine:
    """A line that is no resource. The reason names no content: it may hold a person's data."""

    number: int
    reason: str


@dataclass
class LineSplitter:
    """Splits chunks into lines. Call ``feed`` for each chunk, then ``finish``. A line over the limit is replaced by a
    marker."""

    limit: int = DOCUMENT_LIMIT
    _rest: list[bytes] = field(default_factory=list)
    _size: int = 0
    _number: int = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines completed by this chunk."""
        head, newline, tail = chunk.partition(b"\n")
        if not newline:
            self._hold(chunk)
            return []
        self._hold(head)
        pieces = tail.split(b"\n")
        whole = [b"".join(self._rest), *pieces[:-1]]
        self._rest, self._size = [], 0
        self._hold(pieces[-1])
        return self._numbered(whole)

    def finish(self) -> list[Line]:
        """The last line, if the file does not end in a newline."""
        last, self._rest = b"".join(self._rest), []
        return self._numbered([last]) if last else []

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.limit:
            self._rest = [_TOO_LONG]
        else:
            self._rest.append(piece)

    def _numbered(self, texts: list[bytes]) -> list[Line]:
        first = self._number + 1
        self._number += len(texts)
        if first == 1:
            texts[0] = texts[0].removeprefix(_BOM)
        return [Line(number, line) for number, text in enumerate(texts, first) if (line := text.rstrip(_BLANK))]


def split_lines(chunks: Iterable[bytes], *, limit: int = DOCUMENT_LIMIT) -> Iterator[Line]:
    """The lines of a file that arrives in chunks. Keeps at most the longest line, or ``limit`` bytes, in memory."""
    splitter = LineSplitter(limit)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.finish()


def read_resources(
    lines: Iterable[Line], *, loads: Loads = decode, bundles: bool = True, limit: int = DOCUMENT_LIMIT
) -> Iterator[Resource | BadLine]:
    """The resources of a file. With ``bundles`` False a Bundle is not split, as needed for a file of deletions."""
    reader = _Reader(loads, bundles, limit)
    for line in lines:
        yield from reader.read(line)
    yield from reader.finish()


@dataclass
class _Reader:
    loads: Loads
    bundles: bool
    limit: int
    waiting: list[Line] = field(default_factory=list)
    size: int = 0

    def read(self, line: Line) -> list[Resource | BadLine]:
        if self.waiting:
            return self._read_within_document(line)
        if line.text == _TOO_LONG:
            return [BadLine(line.number, "too long")]
        try:
            value = self.loads(line.text)
        except ValueError:
            return self._open_document(line)
        return self._resources(line.number, value, line.text)

    def finish(self) -> list[Resource | BadLine]:
        return self._give_up() if self.waiting else []

    def _open_document(self, line: Line) -> list[Resource | BadLine]:
        # The first line of a document formatted over many lines ends before a value or a member.
        if line.text.lstrip()[:1] in (b"{", b"[") and line.text.rstrip()[-1:] in (b"{", b"[", b","):
            self.waiting, self.size = [line], len(line.text)
            return []
        return [BadLine(line.number, "not JSON")]

    def _read_within_document(self, line: Line) -> list[Resource | BadLine]:
        if self._stands_alone(line):
            return self._give_up() + self.read(line)
        self.waiting.append(line)
        self.size += len(line.text)
        if line.text.rstrip()[-1:] in (b"}", b"]") and line.text[:1] in (b"}", b"]"):
            text = b"\n".join(each.text for each in self.waiting)
            try:
                value = self.loads(text)
            except ValueError:
                pass
            else:
                number, self.waiting = self.waiting[0].number, []
                return self._resources(number, value, b"")
        return self._give_up() if self.size > self.limit else []

    def _stands_alone(self, line: Line) -> bool:
        """True for a complete resource on one line: then the supposed document was really a broken line."""
        if self.waiting[0].text.lstrip()[:1] == b"[" or line.text[:1] != b"{" or line.text[-1:] != b"}":
            return False
        try:
            value = self.loads(line.text)
        except ValueError:
            return False
        return "resourceType" in value

    def _give_up(self) -> list[Resource | BadLine]:
        """The first line was broken, not the start of a document: read each line separately.

        This also handles the items of an array that is too large for memory: their lines end in a comma.
        """
        lines, self.waiting = self.waiting, []
        items: list[Resource | BadLine] = []
        for line in lines:
            text = line.text.rstrip(b", \t")
            try:
                value = self.loads(text)
            except ValueError:
                items.append(BadLine(line.number, "not JSON"))
            else:
                items += self._resources(line.number, value, text)
        return items

    def _resources(self, number: int, value: object, raw: bytes) -> list[Resource | BadLine]:
        if isinstance(value, list):
            return [item for each in value for item in self._resources(number, each, b"")]
        if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
            return [BadLine(number, "not a resource")]
        if self.bundles and value["resourceType"] == "Bundle" and isinstance(value.get("entry"), list):
            inner = [each["resource"] for each in value["entry"] if isinstance(each, dict) and "resource" in each]
            return self._resources(number, inner, b"")
        return [resource_of(value, number, raw)]
