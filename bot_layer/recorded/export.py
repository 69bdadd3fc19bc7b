"""Writes the recording of a run as a test case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bot_layer.bot.handler import Handler
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.recorded.rules.case import build


def write_case(recording: Json, handler: Handler, folder: Path, *, name: str) -> Path:
    """The folder of the case: the one given, or a new one ``<stem>/<name>`` in it if it holds something already."""
    bot = handler.bot
    names = {*_names(handler.operation or {}), str(bot.parameter), *bot.secret_names}
    files = build(recording, bot.settings, names, lambda: os.urandom(32))
    case = folder / bot.stem / name if folder.exists() and any(folder.iterdir()) else folder
    if case.exists() and any(case.iterdir()):
        raise InputError(f"{case} exists already: name another folder.", code="folder-not-empty")
    case.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (case / file).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return case


def _names(value: Any) -> Iterator[str]:
    """The names of the parameters of an OperationDefinition, those of their parts included."""
    for each in value.get("parameter") or value.get("part") or []:
        yield str(each.get("name"))
        yield from _names(each)
