"""The syncs of all practices, for a host: queued when they are due, run on any host that has room, and shown on the
status page."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.practices import Practices
from bot_layer.bulk_sync.rules.run_state import SyncState, due_at
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.session import Halted, is_shared, load_state
from bot_layer.cli.practice_page import Sample, read_practice
from bot_layer.cli.practices import NOT_SET_UP, STATE_FOLDER, find_practices, opened_sync
from bot_layer.codes import explain
from bot_layer.errors import BotError, ConfigError
from bot_layer.host import jobs
from bot_layer.host.history import HEALTH, Entry, History
from bot_layer.host.jobs import HALTED, Item, Job
from bot_layer.host.pages.values import Practice
from bot_layer.host.rules.inbox import Verdict, verdict
from bot_layer.medplum.client import Medplum

NAME: Final = "pf-sync"
_ONE: Final = "Practice Fusion"  # the page's label for the only practice, whose name is empty
_AGAIN_SECONDS: Final = 600.0
_READ_SECONDS: Final = 3600.0  # how often settings and Task are read again
_HEALTH_SECONDS: Final = 300.0
_log = logging.getLogger(__name__)


class PracticeSyncs:
    """The syncs of the practices that the environment or the project's secrets name. Thread-safe.

    ``database`` is that of the hosts, which contains the maps of ids if it is PostgreSQL.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        database: str = "",
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._environ, self._database, self._clock = environ, database, clock
        self._stop = stop or threading.Event()
        self._not_before: dict[str, float] = {}
        self._found: tuple[Practices, Medplum] | None = None
        self._reported: dict[str, str] = {}
        self._samples: dict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=20))

    def job(self, *, at_once: int = 4, here: int = 2) -> Job:
        """The job for the hosts: at most ``at_once`` runs at one source's host, and ``here`` on this host."""
        return Job(NAME, self.due, self.run, at_once=at_once, here=here)

    def due(self) -> list[Item]:
        """The practices that are due, the one that has waited longest first."""
        self._found = practices, medplum = self._find()
        waiting: list[tuple[float, str, Item]] = []
        for name, settings in practices.items():
            if isinstance(settings, ConfigError):
                self._report(name, settings)
            elif settings.enabled and self._clock() >= self._not_before.get(name, 0.0):
                try:
                    state = load_state(settings, medplum)
                except BotError as fault:
                    self._report(name, fault)
                    continue
                if self._is_due(name, settings, state):
                    last = state.run.id if state.run is not None else "first"
                    # An interrupted run is retried within the next ten minutes.
                    turn = f"{last}:{int(self._clock() // _AGAIN_SECONDS)}"
                    waiting.append((state.last_turn, name, Item(name, urlsplit(settings.source).netloc, turn)))
        return [item for _, _, item in sorted(waiting, key=lambda each: each[:2])]

    def run(self, name: str, asked: bool) -> Verdict:
        """Run one practice's sync to its end; does nothing if it is neither due nor requested."""
        practices, medplum = self._found or self._find()
        settings = practices.get(name)
        if not isinstance(settings, SyncSettings):
            return Verdict("dead", "practice-unknown")
        place = settings.folder or (self._database if is_shared(self._database) else str(STATE_FOLDER))
        within = Surroundings(place=place, log=partial(_write, name), stop=self._stop)
        try:
            with opened_sync(settings, medplum, within) as sync:
                if not self._is_due(name, settings, sync.store.load()) and not asked:
                    return Verdict("done", "not-due")
                state = sync.run(Options())
        except Halted:
            return HALTED
        except BotError as fault:
            self._report(name, fault)
            return verdict(fault)
        return Verdict("done") if state.run is not None and state.run.over else HALTED

    def start(self, name: str) -> None:
        """Queue a run of one practice of the page, due or not; raises ConfigError if its settings are wrong."""
        name = _own(name)
        settings = self._find()[0][name]
        if isinstance(settings, ConfigError):
            raise settings
        turn = f"asked-{self._clock():.0f}"
        jobs.enqueue(self.job(), [Item(name, urlsplit(settings.source).netloc, turn, asked=True)])

    def cancel(self, name: str) -> None:
        """End the current run of one practice of the page, whichever host or command runs it."""
        practices, medplum = self._find()
        settings = practices.get(_own(name))
        if isinstance(settings, SyncSettings):
            Sync(settings, medplum).cancel()

    def practices(self) -> list[Practice]:
        """The state of each practice, from its Task in Medplum. Raises ConfigError if PF_PRACTICES is unreadable."""
        try:
            practices, medplum = self._find()
        except ConfigError as fault:
            if fault.code == NOT_SET_UP:
                return []
            raise
        return [self._practice(name, settings, medplum) for name, settings in practices.items()]

    def watch(self, history: History) -> None:
        """Record the health of each practice every few minutes, until the host stops; all hosts write one record."""
        wait = 20.0
        while not self._stop.wait(wait):
            wait, now = _HEALTH_SECONDS, self._clock()
            with suppress(BotError):
                for each in self.practices():
                    if each.enabled:
                        entry_id = f"{HEALTH}-{each.name}-{now // _HEALTH_SECONDS:.0f}"
                        history.add(Entry(entry_id, now, each.name, HEALTH, each.state))

    def _find(self) -> tuple[Practices, Medplum]:
        return find_practices(self._environ, every=True)

    def _practice(self, name: str, settings: SyncSettings | ConfigError, medplum: Medplum) -> Practice:
        shown = name or _ONE
        if isinstance(settings, ConfigError):
            return Practice(shown, "not set up", healthy=False, problems=(settings.message,))
        try:
            state = load_state(settings, medplum)
        except BotError as fault:
            return Practice(shown, "unknown", healthy=False, problems=(explain(fault),))
        return read_practice(shown, state, settings, self._clock(), self._samples[name])

    def _is_due(self, name: str, settings: SyncSettings, state: SyncState) -> bool:
        due, now = due_at(state, settings.interval_ms), self._clock()
        self._not_before[name] = min(due, now + _READ_SECONDS)
        return now >= due

    def _report(self, name: str, fault: BotError) -> None:
        """Log a practice's problem, once."""
        text = f"{fault.code}: {fault.message}"
        if self._reported.get(name) != text:
            self._reported[name] = text
            _log.error("[PFSyncScheduler] %s: %s", name, text)


def _own(shown: str) -> str:
    """The name of a practice in the settings."""
    return "" if shown == _ONE else shown


def _write(name: str, component: str, text: str) -> None:
    _log.info("[%s] %s: %s", component, name, text)
