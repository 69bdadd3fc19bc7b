"""The status page of ``medplum-bots serve``: what the host cannot know itself is put together here."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.bulk_sync.rules.practices import Practices
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.task import health
from bot_layer.bulk_sync.setup import load_state, make_sync
from bot_layer.cli.pf_sync import Chosen, read_worlds
from bot_layer.errors import BotError, ConfigError
from bot_layer.findings import Finding
from bot_layer.host.history import HEALTH, Entry, History
from bot_layer.host.pages.access import read_password
from bot_layer.host.pages.values import Practice, Progress, Providers
from bot_layer.host.rules.standing import advice
from bot_layer.medplum.client import Medplum, connect_environment

if TYPE_CHECKING:
    from bot_layer.host.durable import Inbox

LOOK_SECONDS: Final = 300.0
_ONE: Final = "Practice Fusion"  # the name of the only practice
_ANY: Final = "*"
_APPS: Final = {"https://api.medplum.com": "https://app.medplum.com"}


def routes(
    environ: Mapping[str, str],
    bots: Collection,
    history: History,
    box: Inbox | None,
    *,
    catch_up_server: str | None,
    host_url: str,
    stopped: threading.Event,
) -> list[Route]:
    """The status page's routes; none where it has no password."""
    password = read_password(environ)
    if password is None:
        return []
    from bot_layer.host.marks import Marks  # noqa: PLC0415  # DBOS costs --help half a second
    from bot_layer.host.pages.overview import Sources  # noqa: PLC0415  # as above
    from bot_layer.host.pages.routes import PageSettings, StatusPage  # noqa: PLC0415  # as above
    from bot_layer.host.runs import connect_runs, without_inbox  # noqa: PLC0415  # as above

    database = box.settings.database_url if box is not None else None
    is_known = bool(environ.get("MEDPLUM_CLIENT_ID") and environ.get("MEDPLUM_BASE_URL"))
    syncs = Syncs(environ)
    if is_known:
        threading.Thread(target=syncs.watch, args=(history, stopped), daemon=True).start()
    base_url = environ.get("MEDPLUM_BASE_URL", "").rstrip("/")
    settings = PageSettings(
        password=password,
        sources=Sources(
            bots,
            history,
            box,
            cache(lambda: Marks(str(database), str(catch_up_server))) if database and catch_up_server else None,
        ),
        runs=cache(lambda: connect_runs(database, history) if database else without_inbox(history)),
        providers=Providers(
            practices=syncs.practices if is_known else lambda: (),
            start=syncs.start,
            cancel=syncs.cancel,
            findings=partial(_findings, environ, bots, host_url) if is_known else None,
        ),
        app_url=environ.get("BOT_HOST_APP_URL") or _APPS.get(base_url, ""),
    )
    return StatusPage(settings).routes()


def _findings(environ: Mapping[str, str], bots: Collection, host_url: str) -> Sequence[Finding]:
    from bot_layer.deploy.doctor import Diagnosis, examine  # noqa: PLC0415  # costs time that --help need not pay

    server = connect_environment(environ)
    return list(examine(Diagnosis(environ["MEDPLUM_BASE_URL"], server, bots, host_url, environ)))


class Syncs:
    """The bulk syncs of the practices that the environment or the project's secrets name."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._environ, self._clock = environ, clock
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def practices(self) -> list[Practice]:
        """Where each practice stands, as its Task in Medplum says."""
        worlds, login = self._worlds()
        return [self._practice(name or _ONE, settings, login) for name, settings in worlds.items() if login is not None]

    def start(self, name: str) -> None:
        """Start a run in a process of its own, so that it takes no time from the host."""
        running = self._started.get(name)
        if running is None or running.poll() is not None:
            which = [] if name == _ONE else ["--practice", name]
            self._started[name] = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-m", "bot_layer.cli", "pf-sync", "--quiet", *which],
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def cancel(self, name: str) -> None:
        """End the run that is under way, whoever holds it."""
        worlds, login = self._worlds()
        settings = worlds.get("" if name == _ONE else name)
        if isinstance(settings, SyncSettings) and login is not None:
            make_sync(settings, login).cancel()

    def watch(self, history: History, stopped: threading.Event, *, every: float = LOOK_SECONDS) -> None:
        """Note every few minutes how each practice is, until the host stops; then stop what was started here."""
        while not stopped.wait(min(every, 20.0)):
            with suppress(BotError):
                self.note(history)
            if stopped.wait(every):
                break
        for process in self._started.values():
            process.terminate()  # it keeps its place

    def note(self, history: History) -> None:
        """Note how each practice is now; of several hosts one note stays."""
        now = self._clock()
        for each in self.practices():
            if each.enabled:
                entry_id = f"{HEALTH}-{each.name}-{now // LOOK_SECONDS:.0f}"
                history.add(Entry(entry_id, now, each.name, HEALTH, each.state))

    def _worlds(self) -> tuple[Practices, Medplum | None]:
        for chosen in (Chosen(every=True), Chosen()):
            with suppress(ConfigError):
                return read_worlds(self._environ, chosen)
        return {}, None

    def _practice(self, name: str, settings: SyncSettings | ConfigError, login: Medplum | None) -> Practice:
        if isinstance(settings, ConfigError) or login is None:
            return Practice(name, "not set up", healthy=False, problems=("Its settings are incomplete or wrong.",))
        try:
            state = load_state(settings, login)
        except BotError as fault:
            return Practice(name, "unknown", healthy=False, problems=(advice("failed", fault.code),))
        return read_practice(name, state, settings, self._clock())


def read_practice(name: str, state: SyncState, settings: SyncSettings, now: float) -> Practice:
    """A practice as the page shows it."""
    run, interval = state.run, settings.interval_ms / 1000
    record = health(state, enabled=settings.enabled, interval_ms=settings.interval_ms, now=now)
    is_partial = run is not None and run.phase == "partial"
    is_late = now - (state.last_success or now) > 2 * interval  # as in the health record
    is_under_way = run is not None and not run.over
    ended = max(state.last_success, run.ended if run is not None else 0.0)
    progress = _progress(run) if run is not None else ()
    return Practice(
        name=name,
        phase=run.phase if run is not None else "never ran",
        healthy=run is None or (bool(record["healthy"]) and run.phase != "failed") or (is_partial and not is_late),
        running=bool(record["isRunning"]),
        enabled=settings.enabled,
        started=run.started if run is not None else None,
        last_success=state.last_success or None,
        next_run=ended + interval if ended and not is_under_way else None,
        seconds_left=_seconds_left(run, progress, now) if run is not None else None,
        progress=progress,
        problems=tuple(_problems(run)) if run is not None else (),
    )


def _progress(run: Run) -> tuple[Progress, ...]:
    expected: dict[str, int] = {}
    for file in (file for job in run.jobs for file in job.files if file.count is not None):
        expected[file.type] = expected.get(file.type, 0) + int(file.count or 0)
    return tuple(
        Progress(kind, row.get("seen", 0), row.get("failed", 0), expected.get(kind))
        for kind, row in sorted({**{each: {} for each in expected}, **run.counts}.items())
    )


def _seconds_left(run: Run, progress: Sequence[Progress], now: float) -> float | None:
    """By what was done so far; None while nobody can know."""
    expected = sum(each.expected or 0 for each in progress)
    done = sum(min(each.done, each.expected or 0) for each in progress)
    if run.phase != "load" or not done or done >= expected:
        return None
    return (now - run.started) * (expected - done) / done


def _problems(run: Run) -> list[str]:
    """What is partial or failed, and why: types, numbers and codes."""
    found = []
    if run.problem:
        code = run.problem.partition(":")[0]
        found.append(f"The run stopped with {code}. {advice('failed', code)}")
    failed = {kind: row["failed"] for kind, row in run.counts.items() if row.get("failed")}
    found += [
        f"{number} {kind} could not be written to Medplum. They are tried again." for kind, number in failed.items()
    ]
    found += [
        f"{each.count} {'resources' if each.type == _ANY else each.type} were not exported by the source "
        f"({each.reason}). The next run asks again."
        for each in run.not_exported
    ]
    found += [f"The source does not allow {kind} to be exported." for kind in run.refused_types]
    copies = sum(run.uncopied.values())
    return [*found, *([f"{copies} documents kept their link to the source."] if copies else [])]
