"""The status page of ``medplum-bots serve``, with data that the host itself does not have: syncs and doctor
findings."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.task import health
from bot_layer.bulk_sync.setup import load_state, make_sync
from bot_layer.cli.pf_sync import NOT_SET_UP, Chosen, read_worlds
from bot_layer.codes import advice, explain
from bot_layer.errors import BotError, ConfigError
from bot_layer.findings import Finding
from bot_layer.host.history import HEALTH, Entry, History
from bot_layer.host.pages.access import read_password
from bot_layer.host.pages.values import Practice, Progress, Providers
from bot_layer.medplum.client import Medplum, connect_environment

if TYPE_CHECKING:
    from bot_layer.host.durable import Inbox

LOOK_SECONDS: Final = 300.0
_ONE: Final = "Practice Fusion"  # the page's label for the only practice, whose name is empty
_ANY: Final = "*"
_SAMPLE_SECONDS: Final = 60.0
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
    start: Callable[[str], None] | None = None,
) -> list[Route]:
    """The status page's routes; none if it has no password. ``start`` queues a run of a practice's sync."""
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
            start=(lambda name: start(_own(name))) if start else None,
            cancel=syncs.cancel,
            findings=partial(_findings, environ, bots, host_url) if is_known else None,
        ),
        app_url=environ.get("BOT_HOST_APP_URL") or _APPS.get(base_url, ""),
    )
    return StatusPage(settings).routes()


def _findings(environ: Mapping[str, str], bots: Collection, host_url: str) -> Sequence[Finding]:
    from bot_layer.deploy.doctor import Diagnosis, examine  # noqa: PLC0415  # a slow import, not needed for --help

    server = connect_environment(environ)
    case = Diagnosis(environ["MEDPLUM_BASE_URL"], server, bots, host_url, environ, last_runs=False)  # it shows the runs
    return list(examine(case))


class Syncs:
    """The bulk syncs of the practices that the environment or the project's secrets name."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._environ, self._clock = environ, clock
        self._samples: dict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=20))

    def practices(self) -> list[Practice]:
        """The state of each practice, from its Task in Medplum. Raises ConfigError if PF_PRACTICES is unreadable."""
        try:
            practices, login = read_worlds(self._environ, Chosen(every=True))
        except ConfigError as fault:
            if fault.code == NOT_SET_UP:
                return []
            raise
        return [self._practice(name, settings, login) for name, settings in practices.items()]

    def cancel(self, name: str) -> None:
        """End the current run, whichever host or command runs it."""
        practices, login = read_worlds(self._environ, Chosen(every=True))
        settings = practices.get(_own(name))
        if isinstance(settings, SyncSettings):
            make_sync(settings, login).cancel()

    def watch(self, history: History, stopped: threading.Event, *, every: float = LOOK_SECONDS) -> None:
        """Record the health of each practice every few minutes, until the host stops."""
        while not stopped.wait(min(every, 20.0)):
            with suppress(BotError):
                self.note(history)
            if stopped.wait(every):
                break

    def note(self, history: History) -> None:
        """Record the health of each practice now; all hosts write to the same record."""
        now = self._clock()
        for each in self.practices():
            if each.enabled:
                entry_id = f"{HEALTH}-{each.name}-{now // LOOK_SECONDS:.0f}"
                history.add(Entry(entry_id, now, each.name, HEALTH, each.state))

    def _practice(self, name: str, settings: SyncSettings | ConfigError, login: Medplum) -> Practice:
        shown = name or _ONE
        if isinstance(settings, ConfigError):
            return Practice(shown, "not set up", healthy=False, problems=(settings.message,))
        try:
            state = load_state(settings, login)
        except BotError as fault:
            return Practice(shown, "unknown", healthy=False, problems=(explain(fault),))
        return read_practice(shown, state, settings, self._clock(), self._samples[name])


def _own(shown: str) -> str:
    """The name of a practice in the settings."""
    return "" if shown == _ONE else shown


@dataclass(frozen=True)
class Sample:
    """How many resources a run had processed at an instant."""

    run: str
    at: float
    done: int


def read_practice(
    name: str, state: SyncState, settings: SyncSettings, now: float, samples: deque[Sample] | None = None
) -> Practice:
    """A practice in the form for the page. ``samples`` are earlier observations, to which this one is added."""
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
        seconds_left=_seconds_left(run, progress, now, samples if samples is not None else deque()) if run else None,
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


def _seconds_left(run: Run, progress: Sequence[Progress], now: float, samples: deque[Sample]) -> float | None:
    """The remaining time at the speed of the samples, in seconds.

    None until a minute of loading has been observed, and while an export is incomplete: its size is unknown.
    """
    if run.phase != "export" or not all(job.done or job.files for job in run.jobs):
        return None
    expected = sum(each.expected or 0 for each in progress)
    done = sum(min(each.done, each.expected or 0) for each in progress)
    if samples and samples[-1].run != run.id:
        samples.clear()
    if not samples or now - samples[-1].at >= _SAMPLE_SECONDS:
        samples.append(Sample(run.id, now, done))
    first = samples[0]
    if now - first.at < _SAMPLE_SECONDS or done <= first.done or done >= expected:
        return None
    return (now - first.at) * (expected - done) / (done - first.done)


def _problems(run: Run) -> list[str]:
    """The partial or failed parts of a run with their reasons: types, counts and codes."""
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
