"""Events that ran at once, because the database did not store them: each one is stored as a run as soon as it does.

Otherwise another host, or the search for missed changes, would find a version without a run and run it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.host.rules import inbox as rules
from bot_layer.host.rules.inbox import Intake, Verdict

_RAN: Final = Verdict("done", "ran-at-once")
_RUNNING: Final = Verdict("again", "runs-at-once")
_MARK: Final = "ranAtOnce"  # in the record of a run: the id of the event
_MOST: Final = 10_000


class AtOnce:
    """The newest of these events, in memory. ``enqueue`` stores an event and its envelope as a run."""

    def __init__(self, enqueue: Callable[[Intake, Json | None], None]) -> None:
        self._enqueue, self._lock = enqueue, threading.Lock()
        self._found: dict[str, Verdict] = {}
        self._unstored: dict[str, tuple[Intake, Json | None]] = {}

    def begin(self, event_id: str) -> bool:
        """True if the event runs at once from now on; False if it does already, or did."""
        with self._lock:
            if event_id in self._found or event_id in self._unstored:
                return False
            self._found[event_id] = _RUNNING
            for oldest in list(self._found)[:-_MOST]:
                self._found.pop(oldest, None)
                self._unstored.pop(oldest, None)
        return True

    def end(self, taken: Intake, envelope: Json, error: BotError | None) -> None:
        """An event ended. If it failed and may succeed later, it is stored to run again; else as a finished run."""
        with self._lock:
            if self._found.pop(taken.id, None) is None:
                return
            if rules.verdict(error).state == "again":
                self._unstored[taken.id] = taken, envelope
            else:
                self._found[taken.id] = _RAN
                self._unstored[taken.id] = replace(taken, record=taken.record | {_MARK: taken.id}), None

    def store(self) -> None:
        """Store what has ended. Nothing is stored twice: an event has one id."""
        for event_id, event in list(self._unstored.items()):
            self._enqueue(*event)
            self._unstored.pop(event_id, None)

    def is_known(self, event_id: str) -> bool:
        """True if the event runs at once, or did: the same event, delivered again, need not run."""
        with self._lock:
            return event_id in self._found or event_id in self._unstored

    def verdict(self, event_id: str, record: Json) -> Verdict | None:
        """What the run of such an event ends with; None for the run of any other event."""
        return _RAN if record.get(_MARK) == event_id else self._found.get(event_id)
