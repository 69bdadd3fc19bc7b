"""Were the parameters of a call lost on the way?

Since February 2026 Medplum hands the *resource* to the bot of an instance-level operation, and the body of the call
to nobody: a ``preview: true`` in it would be lost, and a trial would become a deed. The caller's Content-Length still
arrives. Only a body as long as an empty Parameters, as one that names the resource itself, or as the resource in a
usual way of writing it, is believed to have lost nothing; any other one, and one of unknown length, must be
sent to the type level, where every version delivers it.

A Subscription's event has no caller, and nothing to lose. It is known by headers that only Medplum's worker can write
(``bot_layer.bot.event``), so that no caller can pass for one.
"""

from __future__ import annotations

import json
from typing import Any

from bot_layer.bot.declaration import Bot
from bot_layer.bot.event import Event
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import boolean, build, reference

# An empty body, ``{}``, or a Parameters without any; a plain ``{"preview": true}`` lies between.
_EMPTY = frozenset((*range(4), *range(29, 65)))
_INDENTS = (2, 4, "\t")


def require_delivered(event: Event, bot: Bot) -> None:
    """Raise InputError ``parameters-not-delivered`` where the caller sent parameters that this server kept back."""
    resource, length = event.input, event.content_length
    if bot.target is None or bot.parameter is None or event.from_subscription:
        return
    if not isinstance(resource, dict) or resource.get("resourceType") != bot.target:
        return
    if not event.length_unknown and (length is None or _is_whole(resource, length, bot)):
        return
    raise InputError(
        f"This Medplum server hands a bot the {bot.target} instead of the parameters of a call on it. Send the same "
        f"body without the id in the URL, and with the parameter {bot.parameter} naming it.",
        code="parameters-not-delivered",
    )


def _is_whole(resource: Json, length: int, bot: Bot) -> bool:
    """True for the length of an empty body, of one that only names the resource, or of the resource (``$execute``)."""
    if length in _EMPTY:
        return True
    if length in _lengths(build(boolean("preview", True))):
        return False  # though the other bodies may be written as long: a trial must not become a deed
    naming = build(reference(str(bot.parameter), f"{bot.target}/{resource.get('id')}"))
    return length in _lengths(naming) or length in _lengths(resource)


def _lengths(value: Json) -> set[int]:
    """The lengths of a body in the usual ways of writing it: styles, escapes, ends of lines, and one at the end."""
    styles: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, *({"indent": indent} for indent in _INDENTS)]
    texts = [json.dumps(value, ensure_ascii=ascii_only, **style) for style in styles for ascii_only in (True, False)]
    sizes = {(len(text.encode("utf-8", "replace")), text.count("\n")) for text in texts}
    return {size + ends + last for size, lines in sizes for ends in (0, lines) for last in (0, 1, 2)}
