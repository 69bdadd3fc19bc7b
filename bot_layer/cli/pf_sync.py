"""``medplum-bots pf-sync``: the Practice Fusion sync on the command line, and its health for monitoring.

Exit codes: 0 complete (or healthy), 1 failed (or not healthy), 2 settings are missing, 3 another run is in progress
(for status: the sync never ran), 4 partial: the source or Medplum refused data, 130 stopped: the next run resumes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, TypeGuard

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from bot_layer.bulk_sync.engine import Halted, Options, Sync
from bot_layer.bulk_sync.rules import run_state as sync_state
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.practices import PRACTICES, Practices, read_every, read_practices
from bot_layer.bulk_sync.rules.settings import SETTINGS, SyncSettings, read_settings
from bot_layer.bulk_sync.rules.source_identity import in_order
from bot_layer.bulk_sync.setup import Surroundings, load_state, login_name, make_sync
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.cli.pf_sync_login import login
from bot_layer.cli.pf_sync_report import Report, write_csv
from bot_layer.cli.progress import bar
from bot_layer.errors import BotError, ConfigError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.retry import repeat
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import resolve, secret_values

app = typer.Typer()
pf_sync = typer.Typer(invoke_without_command=True, help="Sync Practice Fusion to Medplum; status prints its health.")
app.add_typer(pf_sync, name="pf-sync")
pf_sync.command("login")(login)

DONE, FAILED, MISSING, BUSY, PARTIAL, STOPPED = 0, 1, 2, 3, 4, 130
NOT_SET_UP = "no-sync"
_PATIENCE = RetryPolicy(retries=4, backoff=5.0, longest_wait=300.0)
_TIMES = ("lastRun", "lastRunSuccess", "isRunning", "intervalMs", "lastSyncTime")
_HEALTH = ("practice", "enabled", "healthy", *_TIMES, "summary", "problem")
STATE_FOLDER = Path.home() / ".local" / "state" / "medplum-bots"

Full = Annotated[bool, typer.Option("--full", help="Export everything, and compare each resource with Medplum.")]
Types = Annotated[str, typer.Option("--types", help="Types of this run, joined by commas.")]
Since = Annotated[str, typer.Option("--since", help="Export what changed after this time, e.g. 2026-01-31T00:00:00Z.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Save the report to this file: .csv or .json.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (the default).")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")]
Patients = Annotated[str, typer.Option("--patient", help="Only these patients: their ids at the source, by commas.")]
Elements = Annotated[
    str, typer.Option("--elements", help="With --keep: export these elements alone to the folder; write nothing else.")
]
Reconcile = Annotated[bool, typer.Option("--reconcile", help="Full run; delete what the source no longer has.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Retry what Medplum refused; export nothing.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite-reported", help="Full run in which the source overwrites edits made in Medplum."),
]
Preview = Annotated[bool, typer.Option("--preview", help="Show how many resources a run would read; write nothing.")]
Upsert = Annotated[str, typer.Option("--upsert", help="lookup, or conditional: batches of conditional PUTs.")]
Watch = Annotated[bool, typer.Option("--watch", help="Run every PF_SYNC_INTERVAL_MS until stopped.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Keep = Annotated[
    Path | None, typer.Option("--keep", help="A folder that keeps the files, manifest and log of the export.")
]
JobUrl = Annotated[str, typer.Option("--job", help="Load the export with this status URL, started elsewhere.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Let the source ignore parameters that it does not know.")]
LogTimes = Annotated[bool, typer.Option("--log-times", help="Begin each line of the log with the time.")]
PracticesFile = Annotated[Path | None, typer.Option("--practices", help="A TOML file with the practices.")]
Practice = Annotated[str, typer.Option("--practice", help="The practice of that name.")]
All = Annotated[bool, typer.Option("--all", help="Every practice, one after the other.")]


@pf_sync.callback()
def run(
    context: typer.Context,
    *,
    full: Full = False,
    types: Types = "",
    since: Since = "",
    patient: Patients = "",
    elements: Elements = "",
    reconcile: Reconcile = False,
    retry_failed: Retry = False,
    overwrite_reported: Overwrite = False,
    preview: Preview = False,
    upsert: Upsert = "",
    watch: Watch = False,
    quiet: Quiet = False,
    keep: Keep = None,
    report: ReportFile = None,
    job: JobUrl = "",
    lenient: Lenient = False,
    log_times: LogTimes = False,
    practices: PracticesFile = None,
    practice: Practice = "",
    every: All = False,
) -> None:
    """Run a sync to its end, or resume an interrupted one."""
    if context.invoked_subcommand is not None:
        return
    names = in_order(_listed(types))
    changes = ({"PF_UPSERT": upsert} if upsert else {}) | ({"PF_LENIENT": "true"} if lenient else {})
    if elements and keep is None:
        # Partial resources must not replace the complete ones in Medplum.
        raise typer.BadParameter("--elements keeps files and writes nothing to Medplum: add --keep FOLDER.")
    with _told_errors():
        options = Options(
            full=full,
            types=names,
            since=since,
            patients=_listed(patient),
            reconcile=reconcile,
            retry_failed=retry_failed,
            overwrite_reported=overwrite_reported,
            job=job,
            elements=_listed(elements),
        )
        chosen = Chosen(practices, practice, every=every)
        written = Report(report)
        around = _Around(dict(os.environ) | changes, chosen, written, quiet=quiet, log_times=log_times, keep=keep)
        once = around.preview if preview or elements else around.once
        code = around.watch(options) if watch else around.each(once, options)
    raise typer.Exit(code)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for each in text.split(",") if (part := each.strip())))


@pf_sync.command("status")
def status(
    practices: PracticesFile = None,
    practice: Practice = "",
    *,
    every: All = False,
    as_json: AsJson = True,  # noqa: ARG001  # what happens without it
    as_csv: AsCsv = False,
) -> None:
    """Print the health record as JSON; exit 0 if healthy, 1 if not, 3 if it never ran. With --all: one for each
    practice."""
    with _told_errors():
        worlds, medplum = read_worlds(os.environ, Chosen(practices, practice, every=every))
        records = {name: _record(settings, medplum) for name, settings in worlds.items()}
    if as_csv:
        write_csv(sys.stdout, _HEALTH, ({"practice": name, **record} for name, record in records.items()))
    else:
        typer.echo(json.dumps(records if every else next(iter(records.values())), indent=2))
    codes = {
        BUSY if each.get("lastRun") is None and "problem" not in each else FAILED
        for each in records.values()
        if not each["healthy"]
    }
    raise typer.Exit(FAILED if FAILED in codes else BUSY if codes else DONE)


def _record(settings: SyncSettings | ConfigError, medplum: Medplum) -> Json:
    """The health of one practice."""
    if isinstance(settings, ConfigError):
        return {"healthy": False, "problem": f"{settings.code}: {settings.message}"}
    state = load_state(settings, medplum)
    record = sync_task.health(state, enabled=settings.enabled, interval_ms=settings.interval_ms, now=time.time())
    record |= {"lastSyncTime": state.last_sync_time or None, "summary": sync_task.describe(state.run)}
    if state.run is not None and state.run.edits.listed:
        record["edited"] = {each.reference: list(each.fields) for each in state.run.edits.listed}
        record["editedMore"] = state.run.edits.more
    return record


def unhealthy(environ: Mapping[str, str]) -> dict[str, str]:
    """The problem of each practice's settings or last run, by name; empty if no sync is configured."""
    if not environ.get("MEDPLUM_CLIENT_ID"):
        return {}
    try:
        worlds, medplum = read_worlds(environ, Chosen(every=True))
    except ConfigError as fault:
        return {} if fault.code == NOT_SET_UP else {"": f"{fault.code}: {fault.message}"}
    records = {name: _record(settings, medplum) for name, settings in worlds.items()}
    return {
        name: str(record.get("problem") or record["summary"])
        for name, record in records.items()
        if not record["healthy"] and ("problem" in record or record["lastRun"])
    }


@pf_sync.command("cancel")
def cancel(practices: PracticesFile = None, practice: Practice = "") -> None:
    """End the current run, whichever process runs it."""
    with _told_errors():
        worlds, medplum = read_worlds(os.environ, Chosen(practices, practice))
        (settings,) = worlds.values()
        if isinstance(settings, ConfigError):
            raise settings
        state = make_sync(settings, medplum).cancel()
    typer.echo(sync_task.describe(state.run))


@dataclass(frozen=True)
class Chosen:
    """The practices that a command applies to: the one in the settings, a named one, or all."""

    file: Path | None = None
    name: str = ""
    every: bool = False


def read_worlds(environ: Mapping[str, str], chosen: Chosen) -> tuple[Practices, Medplum]:
    """The chosen practices by name, and the login. Settings missing in the environment come from the project's secrets.

    Without PF_PRACTICES, the only practice has an empty name. Raises ConfigError, with code NOT_SET_UP if there are no
    settings.
    """
    login = connect_environment(environ).with_bulk_codes()
    secrets = secret_values(login.project_secrets().values())
    given = resolve(SETTINGS, environ, secrets)
    needed = ("PF_FHIR_BASE_URL", "PF_CLIENT_ID", PRACTICES)
    if not chosen.file and (chosen.every or not secrets) and not any(given.get(name) for name in needed):
        raise ConfigError(
            f"No sync is set up. Set PF_FHIR_BASE_URL and the login, or {PRACTICES}, in the environment or as project "
            "secrets, which only an admin client can read.",
            code=NOT_SET_UP,
            missing=needed,
        )
    if not chosen.name and not chosen.every:
        return {"": read_settings(given)}, login
    if chosen.every and not chosen.file:
        return read_every(given), login
    try:
        text = chosen.file.read_text(encoding="utf-8") if chosen.file is not None else given.get(PRACTICES, "")
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError("The file of --practices cannot be read.", missing=["--practices"]) from fault
    practices = read_practices(text, given)
    if chosen.every:
        return practices, login
    if chosen.name not in practices:
        raise ConfigError(f"There is no practice of that name; there are: {', '.join(practices)}.", missing=[PRACTICES])
    return {chosen.name: practices[chosen.name]}, login


class _Around:
    """Progress, log and signals around runs."""

    def __init__(
        self,
        environ: Mapping[str, str],
        chosen: Chosen,
        report: Report,
        *,
        quiet: bool,
        log_times: bool = False,
        keep: Path | None = None,
    ) -> None:
        self.chosen, self.name, self.report, self.keep = chosen, "", report, keep
        self.stop = threading.Event()
        self.console = Console(stderr=True)
        self.quiet = quiet or not self.console.is_terminal
        self.log_times = log_times or not self.console.is_terminal
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stopped)
        self.worlds, self.login = self._world(environ)
        self.settings = next(each for each in (*self.worlds.values(), SyncSettings("", "")) if _is_usable(each))

    def _world(self, environ: Mapping[str, str]) -> tuple[Practices, Medplum]:
        """The practices and the login; retried while Medplum is unreachable, because the project's secrets are unknown
        until then."""

        def wait(seconds: float) -> None:
            self.log("PFSyncScheduler", "Starting: Medplum is unreachable, trying again")
            if self.stop.wait(seconds):
                raise Halted

        policy = replace(_PATIENCE, retries=_PATIENCE.retries if environ.get("PF_FHIR_BASE_URL") else 0)
        return repeat(lambda: read_worlds(environ, self.chosen), policy, when=lambda _: True, wait=wait)

    def _stopped(self, _number: int, _frame: FrameType | None) -> None:
        self.log("PFSyncScheduler", "Stopping: the progress is stored")
        self.stop.set()

    def log(self, component: str, text: str) -> None:
        """Log one line in the established format."""
        moment = f"{_now()} " if self.log_times else ""
        name = f"{self.name}: " if self.name else ""
        self.console.print(f"{moment}[{component}] {name}{text}", markup=False, highlight=False, soft_wrap=True)

    def each(self, act: Callable[[Options], int], options: Options) -> int:
        """Run ``act`` for each chosen practice and return the exit code; a failure does not stop the others."""
        codes = []
        for name in self.worlds:
            codes.append(self._turn(name, act, options))
            if self.stop.is_set():
                break
        return next((each for each in (FAILED, STOPPED, PARTIAL, BUSY) if each in codes), DONE)

    def _turn(self, name: str, act: Callable[[Options], int], options: Options) -> int:
        settings, self.name = self.worlds[name], name
        if self.chosen.every and name:
            typer.echo(f"{name}:")
        try:
            if isinstance(settings, ConfigError):
                raise settings
            self.settings = settings
            return act(options)
        except BotError as fault:
            if not self.chosen.every:
                raise
            return self._failed(fault)

    def _failed(self, fault: BotError) -> int:
        """The exit code for a failed run; the reason is printed and added to the report."""
        problem = f"{fault.code}: {fault.message}"
        typer.echo(problem, err=True)
        self.report.failed(self.name, problem)
        return BUSY if fault.code == "sync-running" else FAILED

    def once(self, options: Options) -> int:
        """One run to its end; the exit code."""
        with self._watched() as bars:
            sync = self._sync(bars)
            try:
                self._warn_of_administrator(sync)
                state = self._patiently(sync, options)
            except Halted:
                return STOPPED
            except BotError as fault:
                return self._failed(fault)
            finally:
                sync.map.close()
                if sync.session.source.keeper is not None:
                    sync.session.source.keeper.complete()
        if self.stop.is_set() and (state.run is None or not state.run.over):
            return STOPPED
        typer.echo(sync_task.describe(state.run))
        for item, value in sync_task.lines(state):
            typer.echo(f"  {item}: {value}")
        self.report.ended(self.name, state)
        codes = {"done": DONE, "partial": PARTIAL, "cancelled": STOPPED}
        return codes.get(state.run.phase, FAILED) if state.run is not None else FAILED

    def _warn_of_administrator(self, sync: Sync) -> None:
        """Warn if this login has more rights than the sync needs: data from a source could then do more harm."""
        membership = sync.medplum.server.get("auth/me").get("membership")
        if isinstance(membership, dict) and membership.get("admin"):
            self.log(
                "PFSyncScheduler",
                "This login is an administrator of the Medplum project: what a source sends could do more harm. "
                'Use the client application that "medplum-bots pf-sync login" creates; its access policy has the rules '
                'of "Bot pf-bulk-sync".',
            )

    def _patiently(self, sync: Sync, options: Options) -> sync_state.SyncState:
        """One run. Transient errors are retried a few times; the lease of a killed run expires in that time."""
        code = ""

        def may_work(fault: TransientError) -> bool:
            nonlocal code
            code = fault.code
            return code != "sync-running" or self._left_behind(sync)

        def wait(seconds: float) -> None:
            self.log("PFSyncScheduler", f"{code}: trying again")
            if self.stop.wait(seconds):
                raise Halted

        return repeat(lambda: sync.run(options), _PATIENCE, when=may_work, wait=wait)

    def _left_behind(self, sync: Sync) -> bool:
        """True if the lease is no longer renewed, because its holder has died."""
        before = sync.store.load().until
        return not self.stop.wait(sync.store.lease_seconds / 3) and sync.store.load().until == before

    def preview(self, options: Options) -> int:
        """Counts by type on standard output."""
        with self._watched() as bars:
            sync = self._sync(bars)
            numbers = sync.preview(options)
            if sync.session.source.keeper is not None:
                sync.session.source.keeper.complete()
        for kind, many in sorted(numbers.items()):
            typer.echo(f"{kind}: {many}")
        return DONE

    def watch(self, options: Options) -> int:
        """Run until stopped, always the practice that is due first; returns the exit code of the last run."""
        due: dict[str, float] = {}
        for name, settings in self.worlds.items():
            if isinstance(settings, ConfigError):
                self._turn(name, self.once, options)
                continue
            self.name, self.settings = name, settings
            hours = settings.interval_ms / 3_600_000
            self.log("PFSyncScheduler", f"Starting Practice Fusion sync service with {hours:g} hour interval")
            if settings.enabled:
                wait = self._first_wait()
                due[name] = time.monotonic() + wait
            else:
                self.log("PFSyncScheduler", "PF_SYNC_ENABLED is false: nothing runs")
        code = DONE
        while due:
            name = min(due, key=lambda each: due[each])
            if self.stop.wait(max(due[name] - time.monotonic(), 0.0)):
                break
            code = self._turn(name, self.once, options)
            word = "completed successfully" if code == DONE else "did not complete"
            self.log("PFSyncScheduler", f"Sync {word} at {_now()}")
            due[name] = time.monotonic() + self.settings.interval_ms / 1000
        return code

    def _first_wait(self) -> float:
        """The rest of the interval since the last success: a restart does not restart the interval."""
        if self.settings.run_on_startup:
            self.log("PFSyncScheduler", "Running initial sync on startup...")
            return 0.0
        try:
            state = load_state(self.settings, self.login)
        except BotError:
            if not self.chosen.every:
                raise
            return 0.0
        return max(state.last_success + self.settings.interval_ms / 1000 - time.time(), 0.0)

    def _sync(self, bars: _Bars | None) -> Sync:
        within = Surroundings(
            place=self.settings.folder or str(STATE_FOLDER), log=self.log, stop=self.stop, keeper=self._keeper()
        )
        if bars is not None:
            within = replace(within, progress=bars.show)
        return make_sync(self.settings, self.login, within=within, about=login_name(self.login))

    def _keeper(self) -> Keeper | None:
        """The object that stores the files of an export, in a folder for each practice."""
        return Keeper(self.keep / self.name, uuid.uuid4().hex, time.time) if self.keep is not None else None

    @contextmanager
    def _watched(self) -> Iterator[_Bars | None]:
        if self.quiet:
            yield None
            return
        with bar(self.console, is_exact=False) as progress:
            yield _Bars(progress)


def _is_usable(settings: SyncSettings | ConfigError) -> TypeGuard[SyncSettings]:
    return isinstance(settings, SyncSettings)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class _Bars:
    """Progress bars: one for polling, one for each type, and one for the total."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def show(self, kind: str, name: str, done: int, total: int | None) -> None:
        """Advance a bar."""
        with self._lock:
            if kind == "file":
                self._advance(name, done, total)
                self._advance("all resources", done, None)
            else:
                bar = self._bar(kind, total)
                self._progress.update(bar, completed=done, description=f"{kind} {name}".strip())

    def _advance(self, name: str, done: int, total: int | None) -> None:
        self._progress.update(self._bar(name, total), advance=done)

    def _bar(self, name: str, total: int | None) -> TaskID:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        return self._bars[name]


@contextmanager
def _told_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as fault:
        typer.echo(f"{fault.code}: {fault.message}", err=True)
        raise typer.Exit(MISSING) from fault
    except BotError as fault:
        typer.echo(f"{fault.code}: {fault.message}", err=True)
        raise typer.Exit(FAILED) from fault
    except Halted as stopped:
        raise typer.Exit(STOPPED) from stopped  # outside a run; a run saves its position itself
