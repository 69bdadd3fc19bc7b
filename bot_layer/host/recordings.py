"""A failed run with its input and what it sent and received: stored encrypted, and only if the inbox has a key.

``medplum-bots runs export`` turns it into a test case. Only the newest are kept, each up to the size limit of a tape.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from bot_layer.bot import event as envelopes
from bot_layer.bot.handler import Handler
from bot_layer.errors import BotError
from bot_layer.exchanges import Tape
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json, as_object

_LOGINS: Final = ("authorization", "cookie")  # Medplum forwards the headers of a call


def recording_of(
    handler: Handler,
    envelope: Json | None,
    environ: Mapping[str, str] | None,
    tape: Tape | None,
    *,
    answer: Any,
    code: str,
) -> Json | None:
    """The recording of a failed run; None if recording was off, or the bot did not run."""
    if tape is None or envelope is None:
        return None
    environment = os.environ if environ is None else environ
    try:
        settings = envelopes.read(envelope, settings=handler.bot.settings, environ=environment).secrets
    except BotError:
        settings = {}
    headers = as_object(envelope.get("headers"))
    event = {name: value for name, value in envelope.items() if name not in {"secrets", "accessToken"}}
    event["headers"] = {name: value for name, value in headers.items() if name.lower() not in _LOGINS}
    return {
        "bot": handler.bot.name,
        "event": event,
        "settings": dict(settings),
        "exchanges": tape.exchanges,
        "isWhole": tape.is_whole,
        "answer": {"action": parameters.one(answer, "action") if isinstance(answer, dict) else None, "code": code},
    }
