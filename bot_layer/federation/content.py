"""A document's bytes as an HTTP response: whole or one range, streamed, never cached.

https://www.rfc-editor.org/rfc/rfc9110#section-14
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bot_layer.federation.source import Opened
from bot_layer.http.byte_range import Span, Unsatisfiable, byte_range

PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def document_answer(request: Request, opened: Opened, *, etag: str) -> Response:
    """All bytes or the requested range; the response to HEAD has the same headers and no body."""
    headers = {**PRIVATE, "Accept-Ranges": "bytes", "ETag": etag, "Content-Type": opened.content_type}
    asked = request.headers.get("Range") if request.headers.get("If-Range", etag) == etag else None
    span = byte_range(asked, opened.length)
    if isinstance(span, Unsatisfiable):
        opened.close()
        return Response(status_code=416, headers={**PRIVATE, "Content-Range": f"bytes */{opened.length}"})
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{opened.length}"
        headers["Content-Length"] = str(span.end - span.start)
    elif opened.length is not None:
        headers["Content-Length"] = str(opened.length)
    status = 200 if span is None else 206
    if request.method == "HEAD":
        opened.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_part(opened, span), status, headers=headers)


def _part(opened: Opened, span: Span | None) -> Iterator[bytes]:
    """The bytes of a span, in chunks; the source is always closed at the end."""
    place = 0
    try:
        for chunk in opened.chunks:
            following = place + len(chunk)
            if span is None:
                yield chunk
            elif following > span.start:
                yield chunk[max(0, span.start - place) : span.end - place]
            place = following
            if span is not None and place >= span.end:
                return
    finally:
        opened.close()
