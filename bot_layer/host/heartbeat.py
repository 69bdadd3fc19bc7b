"""The heartbeat of a host: it reports that it is alive, takes over the runs of dead hosts, and pauses the schedules
that no living host runs."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from dbos import DBOS, error

from bot_layer.host.occurrences import Occurrences
from bot_layer.host.process_lock import Presence
from bot_layer.host.takeover import Membership, Work

_BEATS: Final = 4  # within the limit: one may be late, and one may fail
_log = logging.getLogger(__name__)


def _holders() -> Iterable[str | None]:
    return {run.executor_id for run in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)}


def _release(host_ids: list[str]) -> None:
    """Give the runs of dead hosts back to their queues.

    This is the project's only call of a private DBOS interface. ``DBOS.resume_workflows`` is not suitable: it also
    takes a run that a living host has since started, and drops the key that prevents duplicate runs of a schedule.
    """
    DBOS._recover_pending_workflows(host_ids)


DBOS_RUNS: Final = Work(_holders, _release)


def new_host_id() -> str:
    """A unique name for this process: machine name and process id for readability, and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Heartbeat:
    """The heartbeat of this process, from ``start`` (once DBOS is launched) to ``stop`` (once it is destroyed).

    ``then`` runs after each heartbeat, until ``retire``.
    """

    def __init__(
        self,
        database_url: str,
        host_id: str,
        *,
        limit: float,
        then: Callable[[], None] = lambda: None,
        occurrences: Occurrences | None = None,
    ) -> None:
        self._then, self._occurrences = then, occurrences or Occurrences()
        self._database_url, self._host_id, self._limit, self._cron = database_url, host_id, limit, False
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._retired = False
        self._thread = threading.Thread(target=self._repeat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Send the first heartbeat, which takes over at once if no other host is running, then repeat it."""
        self._presence = Presence(self._database_url)
        self._membership = Membership(self._database_url, self._host_id, limit=self._limit, work=DBOS_RUNS)
        self.beat(self._membership.now(), alone=self._presence.alone)
        self._thread.start()

    def run_clock(self) -> None:
        """From now on this host runs the schedules, and so do the others while this one is alive."""
        self._cron = True
        self.beat(self._membership.now())

    def beat(self, now: datetime, *, alone: bool = False) -> list[str]:
        """Send one heartbeat; return the hosts whose runs were taken over."""
        with self._lock:
            if self._retired:
                self._membership.beat(now)
                return []
            taken = self._membership.take_over(now, cron=self._cron, alone=alone)
            follow_schedules(self._cron or any(host.cron for host in self._membership.living(now)))
            self._then()
        for host in taken:
            if not host.gone:
                self._occurrences.add("silent")
            _log.warning("Took over the runs of a host that stopped: %s", host.id)
        return [host.id for host in taken]

    def retire(self) -> None:
        """From now on only report that this host is alive: running calls may end, and nothing more is taken over."""
        with self._lock:
            self._retired = True

    def stop(self, *, at_rest: bool) -> None:
        """Stop. With ``at_rest`` nothing runs any more, so others take over at once; else they wait for one timeout."""
        self._stopped.set()
        self._thread.join()
        try:
            if at_rest:
                self._membership.leave()
        except sa.exc.SQLAlchemyError as fault:
            _log.warning("This host did not sign off: %s", type(fault).__name__)
        self._membership.close()
        self._presence.close()

    def _repeat(self) -> None:
        while not self._stopped.wait(self._limit / _BEATS):
            try:
                self.beat(self._membership.now())
            except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
                _log.warning("No heartbeat: %s", type(fault).__name__)


def follow_schedules(wanted: bool) -> None:
    """Pause the schedules of the database while no living host runs them: DBOS would run them on every host."""
    for schedule in DBOS.list_schedules(status="PAUSED" if wanted else "ACTIVE"):
        (DBOS.resume_schedule if wanted else DBOS.pause_schedule)(schedule["schedule_name"])
