"""What a code means and what to do about it, as the tables of codes in the documentation say.

``codes.json`` is made from them by ``python -m tests.codes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from bot_layer.errors import BotError, ConfigError

_BY_STATE: Final[Mapping[str, str]] = {
    "waiting": "It waits for its turn.",
    "running": "It runs now.",
    "done": "It succeeded.",
    "refused": "The bot refused it and wrote nothing. Correct the record in Medplum, and the bot runs again.",
    "failed": "It failed. The caller can call again; if it fails again, look at Set-up.",
    "dead": "It failed for good and is not tried again by itself. Fix the cause, then retry it.",
    "retried": "It failed, and was run again.",
    "cancelled": "Somebody cancelled it. You can retry it.",
}


@cache
def _known() -> Mapping[str, str]:
    text: Mapping[str, str] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return text


def advice(state: str, code: str) -> str:
    """What to do about a run in this state with this code; other collections' codes are unknown."""
    known = _known().get(code, "") if state in ("refused", "failed", "dead") else ""
    return known or _BY_STATE.get(state, "")


def explain(fault: BotError) -> str:
    """What an error means and what to do, in one sentence without anything that a partner wrote."""
    return fault.message if isinstance(fault, ConfigError) else f"{advice('failed', fault.code)} ({fault.code})"
