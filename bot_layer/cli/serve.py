"""``medplum-bots serve``: the host that a Medplum server calls to run the bots."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn
from cachetools import TTLCache, cached

from bot_layer.bot.collection import Collection, module_of
from bot_layer.cli import status_page
from bot_layer.cli.collections import Bots, chosen
from bot_layer.errors import BotError, ConfigError, InputError
from bot_layer.federation import routes as federated
from bot_layer.host import alert_channels, listen, listening, logs, starting, tracing
from bot_layer.host import host as hosting
from bot_layer.host.alert_channels import AlertSettings
from bot_layer.host.history import History
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.pages import access
from bot_layer.medplum.client import Medplum, connect_environment

if TYPE_CHECKING:
    from bot_layer.cli.practice_jobs import PracticeJobs
    from bot_layer.host.durable import Inbox
    from bot_layer.host.jobs import Job

app = typer.Typer()

_SQLITE = "sqlite:///bot-host.sqlite"
_GRACE = 30
_SYNC_SECONDS = 300.0  # how often the sync's Task is read for alerts
_AGES = {"m": "minutes", "h": "hours", "d": "days"}
_log = logging.getLogger(__name__)

MedplumOption = Annotated[
    list[str] | None,
    typer.Option("--medplum", help="Base URL of a Medplum server to serve; repeat for more. [MEDPLUM_BASE_URL]"),
]
InboxOption = Annotated[
    str | None,
    typer.Option(help=f"Where events are stored: a database URL, or 'off'. [BOT_HOST_DATABASE_URL, else {_SQLITE}]"),
]


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = listening.LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    private_network: Annotated[
        bool, typer.Option("--private-network", help="Allow a --host other than loopback, which nobody else can reach.")
    ] = False,
    medplum: MedplumOption = None,
    project: Annotated[
        str | None, typer.Option(help="The only project whose Bots may run. [the project of the host's own login]")
    ] = None,
    as_user: Annotated[
        bool, typer.Option("--allow-run-as-user", help="Also run Bots that have runAsUser, as their caller.")
    ] = False,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Login of a Medplum Agent, ClientApplication/ID, whose calls run with its rights; repeatable."
        ),
    ] = None,
    inbox: InboxOption = None,
    bots: Bots = None,
    cron: Annotated[
        bool, typer.Option("--cron", help="Run the bots' schedules on this host, for a project without cron.")
    ] = False,
    catch_up_since: Annotated[
        str | None,
        typer.Option(help="At the first start, search for changes not older than this: 12h, 7d. Default: now."),
    ] = None,
    sync_practices: Annotated[
        bool,
        typer.Option("--sync-practices", help="Queue the syncs of PF_PRACTICES when they are due."),
    ] = False,
    log_level: Annotated[str, typer.Option(help="Level of the log: debug, info, warning, error.")] = "info",
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a file of the bots changes, for development.")
    ] = False,
) -> None:
    """Serve the bots to a Medplum server: POST /bot-<botId> for its Fission route, POST /relay/<bot-name> for relays.

    Subscription and cron events are stored, acknowledged at once, and run until they end; a call whose caller waits is
    answered when it is done. Relays are accepted if BOT_RELAY_KEY has the key that they sign with. Events are encrypted
    if BOT_HOST_INBOX_KEY is set. Federated queries are answered under /federated if FEDERATED_CLIENTS lists the clients
    that may query. Traces are written if OpenTelemetry's OTEL_* variables enable them. After SIGTERM, the host finishes
    current runs and accepts no new calls.
    """
    if reload:
        _reload(bots)
        return
    logs.configure(level=log_level)
    try:
        starting.require_safe_start(host, os.environ, private_network=private_network)
        with tracing.recorded(os.environ):
            admitting = (_servers(medplum or []), project, as_user, tuple(agent or ()))
            since = age(catch_up_since)
            clocks = _Clocks(cron=cron, since=since, practices=sync_practices)
            _serve(chosen(bots), (host, port), admitting, database(inbox, os.environ), clocks)
    except BotError as error:
        logs.announce(f"{error.code}: {error.message}")
        raise typer.Exit(2) from error


@dataclass(frozen=True)
class _Clocks:
    """The host's own activities: schedules, the search for missed changes, the syncs of practices."""

    cron: bool = False
    since: datetime | None = None
    practices: bool = False


def _reload(bots: list[str] | None) -> None:
    """Run the same command in a process that restarts whenever a module or an OperationDefinition changes."""
    from watchfiles import PythonFilter, run_process  # noqa: PLC0415  # only needed during development

    try:
        folders = {str(Path(str(module_of(handler).__file__)).parent) for handler in chosen(bots)}
    except Exception:  # noqa: BLE001  # a bot that can't be imported yet: the process starts once its file is fixed
        folders = set()
    command = [sys.executable, "-m", "bot_layer.cli", *(word for word in sys.argv[1:] if word != "--reload")]
    watched = PythonFilter(extra_extensions=(".json",))
    run_process(*(folders or {"."}), target=shlex.join(command), target_type="command", watch_filter=watched)


def _serve(
    bots: Collection,
    address: tuple[str, int],
    admitting: tuple[tuple[str, ...], str | None, bool, tuple[str, ...]],
    database: str | None,
    clocks: _Clocks,
) -> None:
    environ = os.environ
    if clocks.practices and database is None:
        raise ConfigError("--sync-practices needs an inbox: give a database as --inbox.")
    servers, project, as_user, agents = admitting
    numbers = starting.read_numbers(environ)
    own_login = partial(login, environ, bots) if environ.get("MEDPLUM_CLIENT_ID") else None
    key = environ.get("BOT_HOST_INBOX_KEY") or None
    history = History(database, key) if database or access.read_password(environ) else None
    alerting = alert_channels.read(environ, own_login)
    if alerting.channels and database is None:
        _log.warning("No alert will be sent: alerts need the inbox, and --inbox is off.")
    occurrences = Occurrences()
    box = _inbox(bots, database, environ, numbers, history, occurrences) if database else None
    relay_key = environ.get("BOT_RELAY_KEY") or None
    responder = federated.Responder(environ) if federated.is_configured(environ) else None
    more = tuple(responder.routes()) if responder else ()
    bound, stopped = listening.bind(*address), threading.Event()
    found = bound.getsockname()
    syncs = _syncs(box, stopped, always=clocks.practices) if box is not None else None
    server_of_marks = _catch_up_server(environ, servers, numbers) if box is not None else None
    if history is not None:
        more += tuple(
            status_page.routes(
                environ,
                bots,
                history,
                box,
                catch_up_server=server_of_marks,
                host_url=listening.own_url(found),
                stopped=stopped,
                start=syncs.start if syncs else None,
            )
        )
    settings = hosting.HostSettings(
        servers=servers,
        bots=bots,
        projects=starting.pinned_projects(servers, project, environ, own_login),
        as_user=as_user,
        agents=agents,
        relay_key=relay_key,
        inbox=box,
        history=history,
        occurrences=occurrences,
        more_routes=more,
        largest_body=int(numbers["BOT_HOST_MAX_BODY_MB"] * 1024 * 1024),
        calls_of_a_bot=int(numbers["BOT_HOST_CALLS_PER_BOT"]),
    )
    application = hosting.app(settings)
    bound.listen(512)  # calls that arrive while the inbox starts wait instead of being refused
    connections = listen.most_connections(int(numbers["BOT_HOST_CONNECTIONS"]))
    server = uvicorn.Server(listen.config(application, grace=_GRACE, connections=connections))
    for sign in (signal.SIGTERM, signal.SIGINT):
        # A signal before uvicorn listens must not be lost. Later, uvicorn handles it: it stops, and raises the signal
        # again.
        signal.signal(sign, lambda _sign, _frame: setattr(server, "should_exit", True))
    if box is not None:
        _launch(box, bots, stopped, clocks, server=servers[0], syncs=_job(syncs, numbers) if syncs else None)
        if own_login is not None:
            missed = partial(occurrences.add, "missed")
            _catch_up(box, bots, server_of_marks, stopped, numbers, since=clocks.since, missed=missed)
        else:
            _log.warning(
                "The host has no login of its own: an accepted event whose process or token ends before its run does "
                "becomes a dead letter, and what changes while no host answers is lost. Set MEDPLUM_CLIENT_ID and "
                "MEDPLUM_CLIENT_SECRET."
            )
        if history is not None:
            _alert(box, history, occurrences, alerting, stopped)
    logs.announce(f"Serving {len(bots.handlers)} bots on http://{found[0]}:{found[1]} until SIGTERM or Ctrl-C")
    try:
        asyncio.run(listen.run(server, bound))
    finally:
        stopped.set()
        if responder is not None:
            responder.close()
        if box is not None:
            box.close(grace=_GRACE)
        if history is not None:
            history.close()


def _inbox(
    bots: Collection,
    database: str,
    environ: Mapping[str, str],
    numbers: Mapping[str, float],
    history: History | None,
    occurrences: Occurrences,
) -> Inbox:
    from bot_layer.host.durable import Inbox, InboxSettings  # noqa: PLC0415  # DBOS costs --help half a second
    from bot_layer.host.heartbeat import new_host_id  # noqa: PLC0415  # as above

    settings = InboxSettings(
        database_url=database,
        key=environ.get("BOT_HOST_INBOX_KEY") or None,
        host_id=environ.get("BOT_HOST_ID") or new_host_id(),
        takeover_seconds=max(numbers["BOT_HOST_TAKEOVER_SECONDS"], 1.0),
        attempts=int(numbers["BOT_HOST_ATTEMPTS"]),
        first_pause=numbers["BOT_HOST_FIRST_PAUSE_SECONDS"],
        keep_days=numbers["BOT_HOST_KEEP_DAYS"],
        client=partial(login, environ, bots) if environ.get("MEDPLUM_CLIENT_ID") else None,
    )
    return Inbox(bots, settings, environ=environ, history=history, occurrences=occurrences)


def login(environ: Mapping[str, str], bots: Collection) -> Medplum:
    """The host's own login, with a timeout as long as that of the slowest bot."""
    return connect_environment(environ, working=max((each.bot.timeout for each in bots), default=0))


def _launch(
    box: Inbox, bots: Collection, stopped: threading.Event, clocks: _Clocks, *, server: str, syncs: Job | None
) -> None:
    from bot_layer.host import jobs  # noqa: PLC0415  # as above
    from bot_layer.host.retention import sweep_hourly  # noqa: PLC0415  # as above
    from bot_layer.host.schedule import start  # noqa: PLC0415  # as above

    if syncs is not None:
        jobs.register(syncs)
    box.launch()
    if syncs is not None:
        jobs.open_queue(syncs)
        if clocks.practices:
            threading.Thread(target=jobs.repeat, args=(syncs, stopped), daemon=True).start()
    threading.Thread(target=sweep_hourly, args=(box.sweep, stopped), daemon=True).start()
    if clocks.cron:
        try:
            start(bots, connect_environment(os.environ), server, now=datetime.now(UTC))
        except BotError:
            box.close(grace=1)
            raise


def _syncs(box: Inbox, stopped: threading.Event, *, always: bool) -> PracticeJobs | None:
    """The syncs of practices: every host with its own login runs what any host has queued."""
    if not always and not os.environ.get("MEDPLUM_CLIENT_ID"):
        return None
    from bot_layer.cli.practice_jobs import PracticeJobs  # noqa: PLC0415  # as above

    return PracticeJobs(dict(os.environ), box.settings.database_url, stopped)


def _job(syncs: PracticeJobs, numbers: Mapping[str, float]) -> Job:
    return syncs.job(at_once=int(numbers["BOT_HOST_SYNCS_PER_SOURCE"]), here=int(numbers["BOT_HOST_SYNCS"]))


def _alert(
    box: Inbox, history: History, occurrences: Occurrences, settings: AlertSettings, stopped: threading.Event
) -> None:
    """Check for alerts, in a thread."""
    from bot_layer.cli.pf_sync import unhealthy  # noqa: PLC0415  # as above
    from bot_layer.host.alerts import Alerts, Sources  # noqa: PLC0415  # as above

    syncs = cached(TTLCache(1, _SYNC_SECONDS))(partial(unhealthy, os.environ))
    alerts = Alerts(box.settings.database_url, settings, Sources(box.dead_letters, history, occurrences, syncs))
    threading.Thread(target=alerts.repeat, args=(stopped,), daemon=True).start()


def _catch_up(
    box: Inbox,
    bots: Collection,
    server: str | None,
    stopped: threading.Event,
    numbers: Mapping[str, float],
    *,
    since: datetime | None,
    missed: Callable[[int], None],
) -> None:
    """Search for missed changes, in a thread. The first marks are stored before the host is ready."""
    from bot_layer.host import catch_up as catching  # noqa: PLC0415  # as above
    from bot_layer.host.marks import Marks  # noqa: PLC0415  # as above

    if server is None:
        _log.warning("The host does not search for changes that it missed.")
        return
    catch_up = catching.CatchUp(bots, login(os.environ, bots), server, box, now=partial(catching.server_time, server))
    marks = Marks(box.settings.database_url, server)
    catching.begin(catch_up, marks, since)
    threading.Thread(
        target=catching.repeat,
        args=(catch_up, marks, stopped),
        kwargs={"every": numbers["BOT_HOST_CATCH_UP_SECONDS"], "missed": missed},
        daemon=True,
    ).start()


def _catch_up_server(environ: Mapping[str, str], servers: tuple[str, ...], numbers: Mapping[str, float]) -> str | None:
    """The server to search for missed changes; None if the search is off or not possible."""
    from bot_layer.host import catch_up as catching  # noqa: PLC0415  # as above

    return catching.own_server(environ, servers) if numbers["BOT_HOST_CATCH_UP_SECONDS"] > 0 else None


def age(text: str | None) -> datetime | None:
    """The instant that long ago: ``30m``, ``12h``, ``7d``."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if found is None:
        raise typer.BadParameter("Give an age such as 30m, 12h or 7d.")
    return datetime.now(UTC) - timedelta(**{_AGES[found[2]]: int(found[1])})


def _servers(given: list[str]) -> tuple[str, ...]:
    servers = tuple(given or [url for url in (os.environ.get("MEDPLUM_BASE_URL") or "").split(",") if url.strip()])
    if not servers:
        raise ConfigError("Say which Medplum server to serve: --medplum URL, or MEDPLUM_BASE_URL.")
    return servers


def database(given: str | None, environ: Mapping[str, str]) -> str | None:
    """The URL of the inbox's database, or None if the inbox is off."""
    chosen = given or environ.get("BOT_HOST_DATABASE_URL") or _SQLITE
    return None if chosen == "off" else chosen


def require_there(url: str) -> None:
    """Raise InputError for an SQLite file that does not exist: a command that reads an inbox must not create one."""
    file = url.removeprefix("sqlite:///").partition("?")[0]
    if file != url and not Path(file).is_file():
        raise InputError(
            "There is no inbox: set the host's BOT_HOST_DATABASE_URL, or run this in the host's folder.",
            code="no-inbox",
        )
