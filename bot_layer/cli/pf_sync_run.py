"""Runs of ``medplum-bots pf-sync``: log, progress bars, report, and a stop at SIGTERM or Ctrl-C that can be resumed."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.progress import TaskID

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Progress, Surroundings
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.practices import Practices
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.session import Halted, load_state
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.cli.pf_sync_report import Report
from bot_layer.cli.practices import STATE_FOLDER, find_practices, opened_sync
from bot_layer.cli.progress import bar
from bot_layer.errors import BotError, ConfigError, TransientError
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.retry import repeat
from bot_layer.medplum.client import Medplum

DONE, FAILED, BUSY, PARTIAL, STOPPED = 0, 1, 3, 4, 130
_PATIENCE = RetryPolicy(retries=4, backoff=5.0, longest_wait=300.0)
_CODES = {"done": DONE, "partial": PARTIAL, "cancelled": STOPPED}
Act = Callable[[SyncSettings, Options], int]


class Runner:
    """Runs the syncs of the practices that ``find`` found; each method returns the exit code."""

    def __init__(self, report: Report, *, every: bool, quiet: bool, log_times: bool, keep: Path | None) -> None:
        self.report, self.every, self.keep = report, every, keep
        self.console = Console(stderr=True)
        self.quiet = quiet
        self.log_times = log_times or not self.console.is_terminal
        self.stop = threading.Event()
        self.name = ""  # of the current practice
        self.practices: Practices
        self.medplum: Medplum
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stopped)

    def find(self, environ: Mapping[str, str], file: Path | None, name: str) -> None:
        """Read the settings; retried while Medplum is unreachable, if only the project's secrets are unknown."""
        policy = replace(_PATIENCE, retries=_PATIENCE.retries if environ.get("PF_FHIR_BASE_URL") else 0)
        self.practices, self.medplum = repeat(
            lambda: find_practices(environ, file=file, name=name, every=self.every),
            policy,
            when=lambda _: True,
            wait=lambda seconds: self._wait(seconds, "Starting: Medplum is unreachable, trying again"),
        )

    def log(self, component: str, text: str) -> None:
        """Log one line in the established format."""
        moment = f"{_now()} " if self.log_times else ""
        name = f"{self.name}: " if self.name else ""
        self.console.print(f"{moment}[{component}] {name}{text}", markup=False, highlight=False, soft_wrap=True)

    def each(self, act: Act, options: Options) -> int:
        """Run ``act`` for each practice; a failure does not stop the others."""
        codes = []
        for name in self.practices:
            codes.append(self._turn(name, act, options))
            if self.stop.is_set():
                break
        return next((each for each in (FAILED, STOPPED, PARTIAL, BUSY) if each in codes), DONE)

    def once(self, settings: SyncSettings, options: Options) -> int:
        """One run to its end."""
        with self._sync(settings) as sync:
            try:
                self._warn_of_administrator()
                state = self._patiently(sync, options)
            except Halted:
                return STOPPED
            except BotError as fault:
                return self._failed(fault)
        if self.stop.is_set() and (state.run is None or not state.run.over):
            return STOPPED
        typer.echo(sync_task.describe(state.run))
        for item, value in sync_task.lines(state):
            typer.echo(f"  {item}: {value}")
        self.report.ended(self.name, state)
        return _CODES.get(state.run.phase, FAILED) if state.run is not None else FAILED

    def preview(self, settings: SyncSettings, options: Options) -> int:
        """Print counts by type."""
        with self._sync(settings) as sync:
            numbers = sync.preview(options)
        for kind, many in sorted(numbers.items()):
            typer.echo(f"{kind}: {many}")
        return DONE

    def watch(self, options: Options) -> int:
        """Run until stopped, always the practice that is due first; the exit code is that of the last run."""
        usable = {name: each for name, each in self.practices.items() if isinstance(each, SyncSettings)}
        for name in self.practices:
            if name not in usable:
                self._turn(name, self.once, options)
        due: dict[str, float] = {}
        for self.name, settings in usable.items():
            hours = settings.interval_ms / 3_600_000
            self._say(f"Starting Practice Fusion sync service with {hours:g} hour interval")
            if settings.enabled:
                due[self.name] = time.monotonic() + self._first_wait(settings)
            else:
                self._say("PF_SYNC_ENABLED is false: nothing runs")
        code = DONE
        while due:
            name = min(due, key=lambda each: due[each])
            if self.stop.wait(max(due[name] - time.monotonic(), 0.0)):
                break
            code = self._turn(name, self.once, options)
            self._say(f"Sync {'completed successfully' if code == DONE else 'did not complete'} at {_now()}")
            due[name] = time.monotonic() + usable[name].interval_ms / 1000
        return code

    def _turn(self, name: str, act: Act, options: Options) -> int:
        """Run ``act`` for one practice. With --all, a failure is reported, and the next practice has its turn."""
        settings, self.name = self.practices[name], name
        if self.every and name:
            typer.echo(f"{name}:")
        try:
            if isinstance(settings, ConfigError):
                raise settings
            return act(settings, options)
        except BotError as fault:
            if not self.every:
                raise
            return self._failed(fault)

    def _failed(self, fault: BotError) -> int:
        problem = f"{fault.code}: {fault.message}"
        typer.echo(problem, err=True)
        self.report.failed(self.name, problem)
        return BUSY if fault.code == "sync-running" else FAILED

    def _first_wait(self, settings: SyncSettings) -> float:
        """The rest of the interval since the last success: a restart does not restart the interval."""
        if settings.run_on_startup:
            self._say("Running initial sync on startup...")
            return 0.0
        try:
            state = load_state(settings, self.medplum)
        except BotError:
            if not self.every:
                raise
            return 0.0
        return max(state.last_success + settings.interval_ms / 1000 - time.time(), 0.0)

    def _warn_of_administrator(self) -> None:
        """Warn if this login has more rights than the sync needs: data from a source could then do more harm."""
        membership = self.medplum.get("auth/me").get("membership")
        if isinstance(membership, dict) and membership.get("admin"):
            self._say(
                "This login is an administrator of the Medplum project: what a source sends could do more harm. "
                'Use the client application that "medplum-bots pf-sync login" creates; its access policy has the rules '
                'of "Bot pf-bulk-sync".'
            )

    def _patiently(self, sync: Sync, options: Options) -> SyncState:
        """One run. Transient errors are retried a few times; the lease of a killed run expires in that time."""
        code = ""

        def may_repeat(fault: TransientError) -> bool:
            nonlocal code
            code = fault.code
            return code != "sync-running" or self._is_abandoned(sync)

        def wait(seconds: float) -> None:
            self._wait(seconds, f"{code}: trying again")

        return repeat(lambda: sync.run(options), _PATIENCE, when=may_repeat, wait=wait)

    def _is_abandoned(self, sync: Sync) -> bool:
        """True if the lease is no longer renewed, because the process that had it has died."""
        before = sync.store.load().until
        return not self.stop.wait(sync.store.lease_seconds / 3) and sync.store.load().until == before

    @contextmanager
    def _sync(self, settings: SyncSettings) -> Iterator[Sync]:
        keeper = Keeper(self.keep / self.name, uuid.uuid4().hex, time.time) if self.keep is not None else None
        with _bars(self.console, hidden=self.quiet) as show:
            within = Surroundings(
                place=settings.folder or str(STATE_FOLDER), log=self.log, stop=self.stop, progress=show, keeper=keeper
            )
            with opened_sync(settings, self.medplum, within) as sync:
                yield sync

    def _say(self, text: str) -> None:
        self.log("PFSyncScheduler", text)

    def _wait(self, seconds: float, why: str) -> None:
        self._say(why)
        if self.stop.wait(seconds):
            raise Halted

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        self._say("Stopping: the progress is stored")
        self.stop.set()


@contextmanager
def _bars(console: Console, *, hidden: bool) -> Iterator[Progress]:
    """Progress bars: one for polling, one for each type, and one for the total. Thread-safe."""
    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()
    with bar(console, hidden=hidden, is_exact=False) as progress:

        def task(name: str, total: int | None) -> TaskID:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            return tasks[name]

        def show(kind: str, name: str, done: int, total: int | None) -> None:
            with lock:
                if kind == "file":
                    progress.advance(task(name, total), done)
                    progress.advance(task("all resources", None), done)
                else:
                    progress.update(task(kind, total), completed=done, description=f"{kind} {name}".strip())

        yield show


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
