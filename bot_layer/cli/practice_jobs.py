"""The syncs of many practices as a job of the hosts: each run executes on any host with free capacity."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from bot_layer.bulk_sync.engine import Halted, Options
from bot_layer.bulk_sync.rules.practices import Practices
from bot_layer.bulk_sync.rules.run_state import SyncState, due_at
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.setup import Surroundings, is_shared, load_state, login_name, make_sync
from bot_layer.bulk_sync.source.requests import Log
from bot_layer.cli.pf_sync import STATE_FOLDER, Chosen, read_worlds
from bot_layer.errors import BotError, ConfigError
from bot_layer.host import jobs
from bot_layer.host.jobs import HALTED, Item, Job
from bot_layer.host.rules.inbox import Verdict, verdict
from bot_layer.medplum.client import Medplum

NAME: Final = "pf-sync"
_AGAIN_SECONDS: Final = 600.0
_LOOK_SECONDS: Final = 3600.0  # how often settings and Task are read again
_log = logging.getLogger(__name__)


@dataclass
class PracticeJobs:
    """The practices of ``PF_PRACTICES``: lists the due ones and runs one. Thread-safe."""

    environ: Mapping[str, str]
    database: str
    stop: threading.Event
    clock: Callable[[], float] = time.time
    not_before: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read: tuple[Practices, Medplum] | None = None
        self._wrong: dict[str, str] = {}

    def job(self, *, at_once: int = 4, here: int = 2) -> Job:
        """The job for the hosts: at most ``at_once`` runs at one source's host, and ``here`` on this host."""
        return Job(NAME, self.due, self.run, at_once=at_once, here=here)

    def start(self, name: str) -> None:
        """Queue a run of one practice, due or not; raises ConfigError if its settings are wrong."""
        practices, _ = read_worlds(self.environ, Chosen(every=True))
        settings = practices[name]
        if isinstance(settings, ConfigError):
            raise settings
        turn = f"asked-{self.clock():.0f}"
        jobs.enqueue(self.job(), [Item(name, urlsplit(settings.source).netloc, turn, asked=True)])

    def due(self) -> list[Item]:
        """The practices that are due, the one that has waited longest first."""
        self._read = practices, login = read_worlds(self.environ, Chosen(every=True))
        waiting: list[tuple[float, Item]] = []
        for name, settings in practices.items():
            if isinstance(settings, ConfigError):
                self._report(name, settings)
            elif settings.enabled and self.clock() >= self.not_before.get(name, 0.0):
                try:
                    state = load_state(settings, login)
                except BotError as fault:
                    self._report(name, fault)
                    continue
                if self._is_due(name, settings, state):
                    waiting.append((state.last_turn, self._item(name, settings, state)))
        return [item for _, item in sorted(waiting, key=lambda each: (each[0], each[1].name))]

    def _item(self, name: str, settings: SyncSettings, state: SyncState) -> Item:
        """The item for the run after the last one; an interrupted run is retried within the next ten minutes."""
        last = state.run.id if state.run is not None else "first"
        return Item(name, urlsplit(settings.source).netloc, f"{last}:{int(self.clock() // _AGAIN_SECONDS)}")

    def run(self, name: str, asked: bool) -> Verdict:
        """Run one practice's sync to its end; does nothing if it is neither due nor requested."""
        practices, login = self._read or read_worlds(self.environ, Chosen(every=True))
        settings = practices.get(name)
        if not isinstance(settings, SyncSettings):
            return Verdict("dead", "practice-unknown")
        place = settings.folder or (self.database if is_shared(self.database) else str(STATE_FOLDER))
        within = Surroundings(place=place, log=_log_of(name), stop=self.stop)
        try:
            sync = make_sync(settings, login, within=within, about=login_name(login))
        except BotError as fault:
            self._report(name, fault)
            return verdict(fault)
        try:
            if not self._is_due(name, settings, sync.store.load()) and not asked:
                return Verdict("done", "not-due")
            state = sync.run(Options())
        except Halted:
            return HALTED
        except BotError as fault:
            return verdict(fault)  # the log and the Task contain the reason
        finally:
            sync.map.close()
        return Verdict("done") if state.run is not None and state.run.over else HALTED

    def _is_due(self, name: str, settings: SyncSettings, state: SyncState) -> bool:
        due, now = due_at(state, settings.interval_ms), self.clock()
        self.not_before[name] = min(due, now + _LOOK_SECONDS)
        return now >= due

    def _report(self, name: str, fault: BotError) -> None:
        """Log a practice's problem, once."""
        text = f"{fault.code}: {fault.message}"
        if self._wrong.get(name) != text:
            self._wrong[name] = text
            _log.error("[PFSyncScheduler] %s: %s", name, text)


def _log_of(name: str) -> Log:
    def log(component: str, text: str) -> None:
        _log.info("[%s] %s: %s", component, name, text)

    return log
