"""Finds the Attachments in a resource, and checks whether a response is the content that one of them describes.

https://hl7.org/fhir/R4/datatypes.html#Attachment, https://hl7.org/fhir/R4/binary.html#rest
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from bot_layer.fhir.json import Json

_FIELDS: Final = frozenset(
    ("contentType", "language", "data", "url", "size", "hash", "title", "creation", "id", "extension")
)
_EXTENSIONS: Final = frozenset({"extension", "modifierExtension"})
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}")
_PLAIN: Final = "application/octet-stream"
# What a gateway, or a server that reports an error, sends instead of a document.
_PAGE_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
_PAGE: Final = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_ERROR: Final = re.compile(rb'\s*\{\s*"(resourceType"\s*:\s*"OperationOutcome|error|message|errors)"')
_XML_BINARY: Final = re.compile(rb'\s*(?:<\?xml[^>]*\?>\s*)?<Binary[^>]*xmlns="http://hl7.org/fhir"')
_XML_VALUE: Final = rb'<%s\s+value="([^"]*)"'


def attachments_in(value: Any, name: str = "") -> Iterator[Json]:
    """Every Attachment with a link or data, at any depth, including contained resources and extensions.

    ``name`` is the element of the value.
    """
    if isinstance(value, list):
        for each in value:
            yield from attachments_in(each, name)
    elif isinstance(value, dict):
        if _is_attachment(name, value):
            yield value
            return
        for element, each in value.items():
            yield from attachments_in(each, element)


def with_attachments(value: Any, change: Callable[[Json], Json], name: str = "") -> Any:
    """A copy of the value with each Attachment changed; the arguments are not modified."""
    if isinstance(value, list):
        return [with_attachments(each, change, name) for each in value]
    if not isinstance(value, dict):
        return value
    if _is_attachment(name, value):
        return change(value)
    return {element: with_attachments(each, change, element) for element, each in value.items()}


def _is_attachment(name: str, value: Json) -> bool:
    has_content = isinstance(value.get("url"), str) or isinstance(value.get("data"), str)
    return has_content and name not in _EXTENSIONS and all(each.removeprefix("_") in _FIELDS for each in value)


def media_type(*candidates: object) -> str:
    """The first valid media type, without its parameters; a value that is invalid in a header does not count."""
    for each in candidates:
        text = each.partition(";")[0].strip() if isinstance(each, str) else ""
        if _MEDIA_TYPE.fullmatch(text):
            return text
    return _PLAIN


def bare(content: bytes) -> bytes:
    """Text without a leading byte order mark and white space."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()


def binary_content(content: bytes, document: Any) -> tuple[str, bytes] | None:
    """Type and bytes if a response is a FHIR Binary, as JSON (``document``) or XML; else None.

    Raises ValueError for a Binary whose data is missing or not base64.
    """
    if isinstance(document, dict) and document.get("resourceType") == "Binary":
        data, kind = document.get("data"), document.get("contentType")
    elif _XML_BINARY.match(bare(content)):
        data, kind = _xml(content, b"data"), _xml(content, b"contentType")
    else:
        return None
    if not isinstance(data, str) or not data.strip():
        raise ValueError("A Binary without data.")
    try:
        return media_type(kind), base64.b64decode("".join(data.split()), validate=True)
    except binascii.Error as fault:
        raise ValueError("A Binary whose data is not base64.") from fault


def _xml(content: bytes, name: bytes) -> str:
    found = re.search(_XML_VALUE % name, content)
    return found[1].decode("ascii", "replace") if found else ""


def refusal(kind: str, start: bytes, size: int, attachment: Json) -> str:
    """Why a response is not the content that an Attachment describes, or an empty text.

    ``kind`` is its media type, ``start`` its first bytes, ``size`` its length.
    """
    stated = attachment.get("size")
    if not size:
        return "empty"
    if isinstance(stated, int) and not isinstance(stated, bool) and stated != size:
        return "of another size than stated"
    expected = media_type(attachment.get("contentType")).lower()
    start = bare(start)
    if expected not in _PAGE_TYPES and (kind.lower() in _PAGE_TYPES or _PAGE.match(start)):
        return "a page"
    return "an error" if "json" not in expected and _ERROR.match(start) else ""
