"""Reads resources from a stream of bytes, wherever it is cut; a bad line is reported, and never stops the rest.

Lines are NDJSON (http://ndjson.org/), and the variants that sources send are accepted too: a byte order mark, CRLF,
empty lines, no final newline, one resource formatted over many lines, an array, a Bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import orjson

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.references import is_id

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
    """A resource that is already parsed, with its key."""
    fit = is_id(value.get("id")) and isinstance(value.get("meta", {}), dict)
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


def split_lines(chunks: Iterable[bytes], *, limit: int = DOCUMENT_LIMIT) -> Iterator[Line]:
    """The lines of a file that arrives in chunks. Keeps at most the longest line, or ``limit`` bytes, in memory."""
    number, size, parts = 1, 0, list[bytes]()
    for chunk in chain(chunks, (b"\n",)):  # the last line may lack its end
        for index, piece in enumerate(chunk.split(b"\n")):
            if index:
                text = b"".join(parts) if size <= limit else _TOO_LONG
                if line := text.removeprefix(_BOM if number == 1 else b"").rstrip(_BLANK):
                    yield Line(number, line)
                number, size, parts = number + 1, 0, []
            size += len(piece)
            if size <= limit:
                parts.append(piece)
            else:
                parts.clear()


def read_resources(
    lines: Iterable[Line], *, bundles: bool = True, limit: int = DOCUMENT_LIMIT
) -> Iterator[Resource | BadLine]:
    """The resources of a file. With ``bundles`` False a Bundle is not split, as needed for a file of deletions."""
    document, size = list[Line](), 0  # the lines so far of what is formatted over many lines
    for line in lines:
        value = _parsed(line.text)
        if document and _stands_alone(line, value, document[0]):
            yield from _line_by_line(document, bundles=bundles)
            document = []
        if document:
            document.append(line)
            size += len(line.text)
            whole = _parsed(b"\n".join(each.text for each in document)) if _ends_document(line) else None
            if whole is not None:
                yield from _resources(document[0].number, whole, bundles=bundles)
                document = []
            elif size > limit:
                yield from _line_by_line(document, bundles=bundles)
                document = []
        elif value is None and _begins_document(line):
            document, size = [line], len(line.text)
        else:
            yield from _resources(line.number, value, line.text, bundles=bundles)
    yield from _line_by_line(document, bundles=bundles)


def _parsed(text: bytes) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _begins_document(line: Line) -> bool:
    """True for a line that ends before a value or a member."""
    return line.text.lstrip()[:1] in (b"{", b"[") and line.text[-1:] in (b"{", b"[", b",")


def _ends_document(line: Line) -> bool:
    return line.text[:1] in (b"}", b"]") and line.text[-1:] in (b"}", b"]")


def _stands_alone(line: Line, value: Any, first: Line) -> bool:
    """True for a complete resource on one line: then the supposed document was really a broken line."""
    is_array = first.text.lstrip()[:1] == b"["
    return not is_array and line.text[:1] == b"{" and isinstance(value, dict) and "resourceType" in value


def _line_by_line(document: Iterable[Line], *, bundles: bool) -> Iterator[Resource | BadLine]:
    """Each line by itself: the first one was broken, and began no document.

    This also reads the items of an array that is too large for memory: their lines end in a comma.
    """
    for line in document:
        text = line.text.rstrip(b", \t")
        yield from _resources(line.number, _parsed(text), text, bundles=bundles)


def _resources(number: int, value: Any, raw: bytes = b"", *, bundles: bool) -> Iterator[Resource | BadLine]:
    """The resources of a value; ``raw`` is its line."""
    if value is None:
        yield BadLine(number, "too long" if raw == _TOO_LONG else "not JSON")
        return
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += reversed(each)
        elif not isinstance(each, dict) or not isinstance(each.get("resourceType"), str):
            yield BadLine(number, "not a resource")
        elif bundles and each["resourceType"] == "Bundle" and isinstance(each.get("entry"), list):
            waiting += [entry["resource"] for entry in reversed(objects(each["entry"])) if "resource" in entry]
        else:
            yield resource_of(each, number, raw if each is value else b"")
