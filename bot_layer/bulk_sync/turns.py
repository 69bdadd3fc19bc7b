"""Several practices in one call of the bot: the longest waiting first, until the time limit is reached."""

from __future__ import annotations

import time
from collections.abc import Callable

from bot_layer.bulk_sync.rules.answer import of_practices
from bot_layer.bulk_sync.rules.practices import Practices
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.errors import BotError, ConfigError
from bot_layer.fhir.json import Json

Turn = Callable[[SyncSettings, float], Json]
_LEAST_SECONDS = 2.0  # with less time than this, a step makes no progress


def take_turns(
    practices: Practices,
    turn: Turn,
    *,
    waiting_since: Callable[[SyncSettings], float],
    seconds: float,
    timer: Callable[[], float] = time.monotonic,
) -> Json:
    """The answer with a part for each practice; the failure of one stops no other.

    ``turn`` gets the settings and the remaining seconds; ``waiting_since`` returns when a practice last had a turn.
    """
    ends = timer() + seconds
    answers: dict[str, Json | str] = {}
    order: list[tuple[float, str, SyncSettings]] = []
    for name, settings in practices.items():
        try:
            if isinstance(settings, ConfigError):
                raise settings
            order.append((waiting_since(settings), name, settings))
        except BotError as fault:
            answers[name] = _said(fault)
    for _, name, settings in sorted(order, key=lambda each: each[:2]):
        left = ends - timer()
        if left < _LEAST_SECONDS:
            answers[name] = "waiting: no time was left in this call"
            continue
        try:
            answers[name] = turn(settings, left)
        except BotError as fault:
            answers[name] = _said(fault)
    return of_practices({name: answers[name] for name in practices})


def _said(fault: BotError) -> str:
    return f"{fault.code}: {fault.message}"
