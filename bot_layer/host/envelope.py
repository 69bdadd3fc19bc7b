"""Reads an envelope's bytes within a size limit, and decodes its login before anything else.

Anyone can send a body to the host, and 15 MB of ``[],`` become 300 MB of Python objects. So only the three members that
admission needs are decoded first; msgspec skips the others without building objects.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json

LARGEST_BODY: Final = 1024 * 1024
_NULL: Final = msgspec.Raw(b"null")
_LARGEST_HEADERS: Final = 16 * 1024
# Half of a surrogate pair: valid in JSON, but msgspec rejects it, even in members that it skips.
_HALF_A_PAIR: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_T = TypeVar("_T")


class _Reference(msgspec.Struct):
    reference: str = ""


class _Head(msgspec.Struct):
    baseUrl: msgspec.Raw = _NULL
    accessToken: msgspec.Raw = _NULL
    bot: msgspec.Raw = _NULL
    traceId: msgspec.Raw = _NULL
    headers: msgspec.Raw = _NULL


_heads: Final = msgspec.json.Decoder(_Head)


def read_login(body: bytes) -> Json:
    """The envelope's ``baseUrl``, ``accessToken`` and ``bot``, and its trace ids.

    A member whose type differs from what Medplum sends is omitted. Raises InputError if the body is not a JSON object.
    """
    try:
        head = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise _no_event() from fault
    reference = _member(head.bot, _Reference)
    headers = _member(head.headers, dict[str, str]) if len(bytes(head.headers)) < _LARGEST_HEADERS else None
    found = {
        "baseUrl": _member(head.baseUrl, str),
        "accessToken": _member(head.accessToken, str),
        "bot": {"reference": reference.reference} if reference else None,
        "traceId": _member(head.traceId, str),
        "headers": headers,
    }
    return {name: value for name, value in found.items() if value is not None}


def read_envelope(body: bytes, login: Json | None = None) -> Json:
    """The whole envelope. InputError if it is not a JSON object, or its login is not the one that was admitted."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise _no_event() from fault
    if not isinstance(parsed, dict):
        raise _no_event()
    # If a member is duplicated, parsers may disagree on which value counts.
    if login is not None and any(parsed.get(name) != login.get(name) for name in ("baseUrl", "accessToken")):
        raise _no_event()
    return parsed


class BodyLimit:
    """An ASGI application whose requests have bodies of at most ``largest`` bytes; InputError for more.

    Neither Starlette nor uvicorn has such a limit.
    """

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self._app = app
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._largest or _declared(scope) > self._largest:
                raise InputError(
                    "The body is larger than this host takes; its operator can set BOT_HOST_MAX_BODY_MB.",
                    code="envelope-too-large",
                )
            return message

        await self._app(scope, limited, send)


def _declared(scope: Scope) -> int:
    """The length that the request headers declare, or 0."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


def _decode(body: bytes) -> _Head:
    try:
        return _heads.decode(body)
    except msgspec.MsgspecError:
        return _heads.decode(_HALF_A_PAIR.sub(rb"\\u003f", body))


def _member(raw: msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _no_event() -> InputError:
    return InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
