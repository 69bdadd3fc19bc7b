"""Turns the recording of a run into the files of a test case, without personal data.

========================  =======================================================================================
``event.json``            Medplum's event, with the settings as its secrets; ``<medplum>``, ``<service-1>``, ... replace
                          the servers, and ``<token>`` the access token
``exchanges.json``        the bot's name, and each request with its answer, in order
``expected.json``         the ``action`` and the ``code`` of the recorded run
========================  =======================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.recorded.rules.deidentify import SECRET, Deidentified, origin_of, parsed_json, personal_words
from bot_layer.recorded.rules.pseudonyms import Pseudonyms
from bot_layer.settings import Setting

MEDPLUM: Final = "<medplum>"
PRIVATE_KEY: Final = "<private-key>"
_TRIES: Final = 20
_LONG: Final = re.compile(r"[^\W\d_]{5,}|[0-9]{7,}")
_HEADERS: Final = re.compile(r"(?i)x-medplum-(?:subscription|interaction|deleted-resource)")
_LENGTHS: Final = re.compile(r"(?i)content-length|transfer-encoding|content-encoding")
_PARTS: Final = re.compile(r"([,;=\s]+)")


def build(
    recording: Json, settings: Iterable[Setting], names: Iterable[str], key: Callable[[], bytes]
) -> dict[str, Any]:
    """The files by name. ``key`` makes random keys; ``names`` are those of the bot's parameters and settings.

    Raises InputError if the recording is incomplete, or if a replaced value appears in the result.
    """
    if not recording.get("isWhole"):
        raise InputError(
            "The run sent or received more than a recording holds, so that it cannot be replayed.",
            code="recording-not-whole",
        )
    declared, known, personal = list(settings), frozenset(names), frozenset(personal_words(recording))
    origins = _origins(recording)
    best: dict[str, Any] | None = None
    for _ in range(_TRIES):
        pseudonyms = Pseudonyms(key())
        walker = Deidentified(pseudonyms, origins, personal, known)
        files = {
            "event.json": _event(recording, declared, walker),
            "exchanges.json": {
                "bot": recording["bot"],
                "exchanges": [_exchange(each, walker) for each in recording["exchanges"]],
            },
            "expected.json": recording["answer"],
        }
        if _long_words(pseudonyms.used).isdisjoint(_long_words(pseudonyms.given)):
            best = files
            if pseudonyms.used.isdisjoint(pseudonyms.given):
                break
    if best is None:
        raise InputError("The recording could not be made free of personal data.", code="not-deidentified")
    return best


def _long_words(texts: Iterable[str]) -> set[str]:
    """The words and numbers that are too long for a replacement to repeat one by chance."""
    return {word.casefold() for text in texts for word in _LONG.findall(text)}


def _origins(recording: Json) -> dict[str, str]:
    """The placeholders of the servers: Medplum's, then one for each other server in the order of the calls."""
    found = {origin_of(str(recording["event"].get("baseUrl", ""))): MEDPLUM}
    for each in recording["exchanges"]:
        found.setdefault(origin_of(each["url"]), f"<service-{len(found)}>")
    return {origin: name for origin, name in found.items() if origin}


def _event(recording: Json, settings: list[Setting], walker: Deidentified) -> Json:
    event, values = recording["event"], recording["settings"]
    is_read = recording["answer"].get("code") == "parameters-not-delivered"  # the only rule that reads the length
    headers: Json = {}
    for name, value in (event.get("headers") or {}).items():
        if _LENGTHS.fullmatch(name):
            headers |= {name: value} if is_read else {}
        elif _HEADERS.fullmatch(name):
            headers[name] = value if "interaction" in name.lower() else walker.text(str(value))
    content_type = {"Content-Type": str(event.get("contentType") or "application/fhir+json")}
    made = {
        "bot": walker.value(event.get("bot") or {}),
        "baseUrl": f"{MEDPLUM}/",
        "accessToken": "<token>",
        "input": walker.value(event.get("input")),
        "contentType": walker.headers(content_type)["Content-Type"],
        "secrets": {
            each.name: {"name": each.name, "valueString": _setting(each, values[each.name], walker)}
            for each in settings
            if each.name in values
        },
        "headers": headers,
    }
    return made | ({"requester": walker.value(event["requester"])} if event.get("requester") else {})


def _setting(setting: Setting, value: str, walker: Deidentified) -> str:
    if setting.kind != "text":
        return value
    if "PRIVATE KEY" in value:
        return PRIVATE_KEY
    if setting.sensitive:
        return SECRET
    if (parsed := parsed_json(value)) is not None:
        return json.dumps(walker.value(parsed, "system"))
    parts = _PARTS.split(value)
    return "".join(part if _PARTS.fullmatch(part) else walker.text(part, is_name=not setting.login) for part in parts)


def _exchange(exchange: Json, walker: Deidentified) -> Json:
    origin = origin_of(exchange["url"])
    path = walker.path(exchange["url"][len(origin) :], exchange["path"])
    made = {
        "request": f"{exchange['method']} {walker.origins[origin]}{path}",
        "sent": walker.body(exchange["sent"]),
        "status": exchange["status"],
        "headers": walker.headers(exchange["headers"]),
        "received": walker.body(exchange["received"]),
    }
    return {name: value for name, value in made.items() if value}
