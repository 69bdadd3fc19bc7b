"""How long the inbox keeps its runs: finished runs for a fixed time, dead letters until they are resolved."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, error

from bot_layer.host.runs import DEAD

# A dead letter that was run again is resolved: the new run has its event.
_ENDED: Final[tuple[dict[str, Any], ...]] = (
    {"status": ["SUCCESS", "CANCELLED"]},
    {"status": list(DEAD), "was_forked_from": True},
)
_log = logging.getLogger(__name__)


def sweep(before: datetime, *, at_once: int) -> int:
    """Delete the runs that ended before an instant; returns their number."""
    swept = 0
    for chosen in _ENDED:
        while old := DBOS.list_workflows(
            **chosen, completed_before=before.isoformat(), load_input=False, load_output=False, limit=at_once
        ):
            DBOS.delete_workflows([run.workflow_id for run in old])
            swept += len(old)
    return swept


def sweep_hourly(sweep: Callable[[datetime], object], stopped: threading.Event, *, every: float = 3600.0) -> None:
    """Sweep once an hour until the host stops; if the database fails, the next sweep tries again."""
    while not stopped.wait(every):
        try:
            sweep(datetime.now(UTC))
        except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            _log.warning("No sweep: %s", type(fault).__name__)
