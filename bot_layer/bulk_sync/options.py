"""What one call of the sync asks for, and what it runs in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bot_layer.bulk_sync.rules.importable_types import not_importable
from bot_layer.bulk_sync.rules.time_stamps import is_instant
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.errors import InputError
from bot_layer.fhir.references import is_id

Progress = Callable[[str, str, int, int | None], None]


@dataclass(frozen=True)
class Options:
    """The options of one call."""

    full: bool = False
    types: tuple[str, ...] = ()
    since: str = ""
    reconcile: bool = False
    retry_failed: bool = False
    overwrite_reported: bool = False
    job: str = ""  # the status URL of an export that was started elsewhere
    patients: tuple[str, ...] = ()  # the source ids of the only patients of this run
    elements: tuple[str, ...] = ()  # for a preview: the only elements that the source sends

    def __post_init__(self) -> None:
        if not all(map(is_id, self.patients)):
            raise _refused("patient", "patient-unreadable", "Give the ids that the patients have at the source.")
        if self.patients and (self.reconcile or self.job):
            # A reconcile deletes what the export does not contain.
            raise InputError(
                "A run of some patients can't be a reconcile, nor load another export.", code="not-together"
            )
        if forbidden := not_importable(self.types):
            text = f"No source may write {', '.join(forbidden)}: name clinical and administrative types only."
            raise _refused("resourceTypes", "type-not-allowed", text)
        if self.since and not is_instant(self.since):
            # A source answers it with 400, as it does for a level that it does not offer.
            text = "Give since as a moment with its time zone, such as 2026-01-31T00:00:00Z."
            raise _refused("since", "since-unreadable", text)


def _refused(parameter: str, code: str, text: str) -> InputError:
    return InputError(text, code=code, expression=[f"Parameters.parameter.where(name='{parameter}')"])


@dataclass(frozen=True)
class Surroundings:
    """What the caller provides: the place of the map, the time limit, log, progress display and stop event."""

    place: str = ""  # a folder, or the URL of a PostgreSQL database that several machines share; empty: nowhere
    log: Log = lambda _component, _text: None
    progress: Progress = lambda _kind, _name, _done, _total: None
    stop: threading.Event = field(default_factory=threading.Event)
    seconds: float | None = None
    sleep: Callable[[float], None] | None = None
    key: str = field(
        default_factory=lambda: os.environ.get("BOT_HOST_INBOX_KEY", ""), repr=False
    )  # encrypts the map and the spool
    keeper: Keeper | None = None  # keeps the original files of the export
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
