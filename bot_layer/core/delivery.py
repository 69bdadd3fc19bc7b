"""Were the parameters of a call lost on the way?

Since February 2026 Medplum hands the *resource* to the bot of an instance-level operation, and the body of the call
to nobody: a ``preview: true`` in it would be lost, and a trial would become a deed. The caller's Content-Length still
arrives. A body that can only have been an empty Parameters, or one that names the resource itself, lost nothing; any
other one must be sent to the type level, where every version delivers it.
"""

from __future__ import annotations

import json

from bot_layer.core.declaration import Bot
from bot_layer.core.event import Event
from bot_layer.core.json import Json
from bot_layer.core.parameters import build, reference
from bot_layer.errors import InputError

_LONGEST_EMPTY = 64
_SHORTEST_PARAMETER = len(',{"name":"preview","valueBoolean":true}')


def require_delivered(event: Event, bot: Bot) -> None:
    """Raise InputError ``parameters-not-delivered`` where the caller sent parameters that this server kept back."""
    resource, length = event.input, event.content_length
    if bot.target is None or bot.parameter is None or length is None or event.from_subscription:
        return
    if not isinstance(resource, dict) or resource.get("resourceType") != bot.target:
        return
    if length >= len(_compact(resource)):
        return  # $execute with the resource itself as its body
    naming = build(reference(bot.parameter, f"{bot.target}/{resource.get('id')}"))
    shortest = len(_compact(naming))
    if length <= _LONGEST_EMPTY or shortest <= length < shortest + _SHORTEST_PARAMETER or length in _indented(naming):
        return
    raise InputError(
        f"This Medplum server hands a bot the {bot.target} instead of the parameters of a call on it. Send the same "
        f"body without the id in the URL, and with the parameter {bot.parameter} naming it.",
        code="parameters-not-delivered",
    )


def _compact(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _indented(value: Json) -> set[int]:
    return {len(json.dumps(value, indent=indent).encode()) + end for indent in (1, 2, 3, 4, "\t") for end in (0, 1)}
