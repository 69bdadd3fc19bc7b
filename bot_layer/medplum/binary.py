"""A document's bytes, from Medplum and into it: as a stream, never whole in memory.

https://hl7.org/fhir/R4/binary.html#rest: asked for anything but FHIR, the server answers with the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import httpx

from bot_layer.errors import InputError, PermanentError, TransientError
from bot_layer.fhir.json import read_object
from bot_layer.fhir.references import is_id
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.wire import SERVICE

_TRIES: Final = 8
_NOT_FOUND: Final = frozenset({404, 410})


@dataclass(frozen=True)
class Bytes:
    """An open document. Close it, also where the chunks were not read to their end."""

    content_type: str | None
    length: int | None
    _response: httpx.Response = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces as they come; one that breaks or only trickles is a TransientError."""
        return self._response.iter_bytes()

    def close(self) -> None:
        """Gives the connection back."""
        self._response.close()


def open_binary(server: Medplum, binary_id: str) -> Bytes:
    """The document of a Binary; InputError ``not-found`` where there is none."""
    if not is_id(binary_id):
        raise InputError("Medplum has no Binary under such an id.", code="not-found")
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    response = server.open("GET", f"fhir/R4/Binary/{binary_id}", template="Binary/{id}", headers=headers, cost=1)
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        # A compressed answer's length is not the document's.
        known = length.isdigit() and "Content-Encoding" not in response.headers
        return Bytes(response.headers.get("Content-Type"), int(length) if known else None, response)
    response.close()
    if response.status_code in _NOT_FOUND:
        raise InputError("Medplum has no Binary/{id}, or this client may not read it.", code="not-found")
    raise _fault("GET", response.status_code)


def read_binary(server: Medplum, binary_id: str) -> bytes:
    """The whole of a Binary, repeated while Medplum is busy; InputError ``not-found`` where there is none."""

    def read() -> bytes:
        with closing(open_binary(server, binary_id)) as found:
            return b"".join(found.chunks())

    return server.repeat(read, when=lambda _: True)


def create_binary(
    server: Medplum,
    content_type: str,
    pieces: Iterable[bytes],
    *,
    owner: str = "",
    before: Callable[[], None] = lambda: None,
) -> str:
    """The id of a new Binary with these bytes; ``owner`` is the Patient whose readers may read it.

    ``pieces`` can be read several times; ``before`` is called before each attempt. A POST whose answer was lost is
    repeated: a Binary that nothing refers to harms less than a document that is missing.
    """
    headers = {"Content-Type": content_type} | ({"X-Security-Context": owner} if owner else {})
    return _written(server, "Binary", headers, pieces, before)


def replace_binary(
    server: Medplum, binary_id: str, content_type: str, pieces: Iterable[bytes], *, before: Callable[[], None]
) -> str:
    """The id of the Binary that contains these bytes now: this one, or a new one where it is not found."""
    headers = {"Content-Type": content_type}
    found = _written(server, f"Binary/{binary_id}", headers, pieces, before) if is_id(binary_id) else ""
    return found or create_binary(server, content_type, pieces, before=before)


def _written(
    server: Medplum,
    path: str,
    headers: dict[str, str],
    pieces: Iterable[bytes],
    before: Callable[[], None],
) -> str:
    """The id of what was written; empty where it is not found."""
    method = "PUT" if "/" in path else "POST"

    def write() -> str:
        before()
        reply = server.send(method, f"fhir/R4/{path}", template="Binary", body=pieces, headers=headers)
        if reply.status_code in _NOT_FOUND:
            return ""
        if not reply.is_success:
            raise _fault(method, reply.status_code)
        stored = read_object(reply.content).get("id")
        if isinstance(stored, str):
            return stored
        raise _fault(method, None)

    return server.repeat(write, when=lambda _: True, tries=_TRIES)


def _fault(method: str, status: int | None) -> PermanentError | TransientError:
    kind, code = (
        (TransientError, "unreadable-answer") if status in (None, 409) else (PermanentError, "refused-by-medplum")
    )
    text = f"Medplum did not answer {method} Binary/{{id}} as it should (status {status})."
    return kind(text, service=SERVICE, status=status, method=method, path="Binary/{id}", code=code)
