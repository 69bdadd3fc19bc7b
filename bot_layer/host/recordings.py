"""A run that failed, with what it was given, sent and received: kept encrypted, and only where the inbox has a key.

``medplum-bots runs export`` makes a test case of it. Only the newest are kept, each no larger than a tape may be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from bot_layer.bot import event as envelopes
from bot_layer.bot.handler import Handler
from bot_layer.errors import BotError
from bot_layer.exchanges import Tape
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json, as_object
from bot_layer.sealing import Seal

_LOGINS: Final = ("authorization", "cookie")  # Medplum passes the headers of a call on


def recording_of(
    handler: Handler,
    envelope: Json | None,
    environ: Mapping[str, str] | None,
    tape: Tape | None,
    *,
    answer: Any,
    code: str,
) -> Json | None:
    """The recording of a run that failed; None where nothing was to be recorded, or the bot did not run."""
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


def seal(recording: Json, key: str) -> str:
    """The recording as it is stored."""
    return (Seal(key).close(json.dumps(recording).encode()) or b"").decode()


def unseal(sealed: str, key: str) -> Json | None:
    """The recording, or None where it was sealed with another key."""
    opened = Seal(key).open(sealed.encode())
    return None if opened is None else json.loads(opened)
