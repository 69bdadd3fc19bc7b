"""``medplum-bots serve``: the host that a Medplum server calls to run the bots."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from socket import socket
from typing import Annotated

import typer
import uvicorn
from cachetools import TTLCache, cached

from bot_layer.bot.collection import Collection, module_of
from bot_layer.cli import status_page
from bot_layer.cli.options import SQLITE, Bots, age, chosen, database, host_login, listed
from bot_layer.cli.practice_syncs import PracticeSyncs
from bot_layer.cli.practices import unhealthy
from bot_layer.errors import BotError, ConfigError
from bot_layer.federation import routes as federated
from bot_layer.host import alert_channels, catch_up, jobs, listen, listening, logs, schedule, starting, tracing
from bot_layer.host import host as hosting
from bot_layer.host.alerts import Alerts
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.heartbeat import new_host_id
from bot_layer.host.history import History
from bot_layer.host.marks import Marks
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.pages import access
from bot_layer.host.retention import sweep_hourly
from bot_layer.medplum.client import Medplum, connect_environment

app = typer.Typer()

_GRACE = 30
_SYNC_SECONDS = 300.0  # how often the sync's Task is read for alerts
_log = logging.getLogger(__name__)


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = listening.LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    private_network: Annotated[
        bool, typer.Option("--private-network", help="Allow a --host other than loopback, which nobody else can reach.")
    ] = False,
    medplum: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of a Medplum server to serve; repeat for more. [MEDPLUM_BASE_URL]"),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help=r"The only project whose Bots may run. \[the project of the host's own login]")
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
    inbox: Annotated[
        str | None,
        typer.Option(help=f"Where events are stored: a database URL, or 'off'. [BOT_HOST_DATABASE_URL, else {SQLITE}]"),
    ] = None,
    bots: Bots = None,
    cron: Annotated[
        bool, typer.Option("--cron", help="Run the bots' schedules on this host, for a project without cron.")
    ] = False,
    catch_up_since: Annotated[
        datetime | None,
        typer.Option(
            parser=age,
            metavar="AGE",
            help="At the first start, search for changes not older than this: 12h, 7d. Default: now.",
        ),
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
            servers = tuple(medplum or listed(os.environ.get("MEDPLUM_BASE_URL")))
            service = _Service(chosen(bots), servers, database(inbox))
            if sync_practices and service.inbox is None:
                raise ConfigError("--sync-practices needs an inbox: give a database as --inbox.")
            bound = listening.bind(host, port)
            settings = service.settings(bound, project=project, as_user=as_user, agents=agent or ())
            service.run(
                bound, settings, partial(service.begin, cron=cron, since=catch_up_since, sync_practices=sync_practices)
            )
    except BotError as error:
        logs.announce(f"{error.code}: {error.message}")
        raise typer.Exit(2) from error


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


class _Service:
    """A host with all that runs beside it: inbox, catch-up, schedules, alerts, syncs of practices, status page."""

    def __init__(self, bots: Collection, servers: tuple[str, ...], database_url: str | None) -> None:
        if not servers:
            raise ConfigError("Say which Medplum server to serve: --medplum URL, or MEDPLUM_BASE_URL.")
        environ = self.environ = os.environ
        self.bots, self.servers, self.stopped = bots, servers, threading.Event()
        self.numbers = starting.read_numbers(environ)
        self.login = partial(host_login, environ, bots) if environ.get("MEDPLUM_CLIENT_ID") else None
        self.alerts = alert_channels.read(environ, self.login)
        if self.alerts.channels and not database_url:
            _log.warning("No alert will be sent: alerts need the inbox, and --inbox is off.")
        key = environ.get("BOT_HOST_INBOX_KEY") or None
        self.history = History(database_url, key) if database_url or access.read_password(environ) else None
        self.occurrences = Occurrences()
        self.marks: Marks | None = None
        self.inbox = self._inbox(database_url, key) if database_url else None
        self.syncs = PracticeSyncs(environ, database_url or "", self.stopped)
        self.responder = federated.Responder(environ) if federated.is_configured(environ) else None

    def _inbox(self, database_url: str, key: str | None) -> Inbox:
        settings = InboxSettings(
            database_url=database_url,
            key=key,
            host_id=self.environ.get("BOT_HOST_ID") or new_host_id(),
            takeover_seconds=max(self.numbers["BOT_HOST_TAKEOVER_SECONDS"], 1.0),
            attempts=int(self.numbers["BOT_HOST_ATTEMPTS"]),
            first_pause=self.numbers["BOT_HOST_FIRST_PAUSE_SECONDS"],
            keep_days=self.numbers["BOT_HOST_KEEP_DAYS"],
            client=self.login,
        )
        return Inbox(self.bots, settings, environ=self.environ, history=self.history, occurrences=self.occurrences)

    def settings(
        self, bound: socket, *, project: str | None, as_user: bool, agents: Sequence[str]
    ) -> hosting.HostSettings:
        """The settings of the host, with the routes of the status page and of federated queries."""
        routes = self.responder.routes() if self.responder is not None else []
        if self.history is not None:
            routes += status_page.routes(
                self.environ,
                self.bots,
                self.history,
                self.inbox,
                syncs=self.syncs if self.login and self.environ.get("MEDPLUM_BASE_URL") else None,
                marks=lambda: self.marks,
                host_url=listening.own_url(bound.getsockname()),
            )
        return hosting.HostSettings(
            servers=self.servers,
            bots=self.bots,
            projects=starting.pinned_projects(self.servers, project, self.environ, self.login),
            as_user=as_user,
            agents=agents,
            relay_key=self.environ.get("BOT_RELAY_KEY") or None,
            inbox=self.inbox,
            history=self.history,
            occurrences=self.occurrences,
            more_routes=tuple(routes),
            largest_body=int(self.numbers["BOT_HOST_MAX_BODY_MB"] * 1024 * 1024),
            calls_of_a_bot=int(self.numbers["BOT_HOST_CALLS_PER_BOT"]),
        )

    def run(self, bound: socket, settings: hosting.HostSettings, begin: Callable[[Inbox], None]) -> None:
        """Serve until a signal; ``begin`` starts the inbox."""
        application = hosting.app(settings)
        bound.listen(512)  # calls that arrive while the inbox starts wait instead of being refused
        connections = listen.most_connections(int(self.numbers["BOT_HOST_CONNECTIONS"]))
        server = uvicorn.Server(listen.config(application, grace=_GRACE, connections=connections))
        for sign in (signal.SIGTERM, signal.SIGINT):
            # A signal before uvicorn listens must not be lost. Later, uvicorn handles it: it stops, and raises the
            # signal again.
            signal.signal(sign, lambda _sign, _frame: setattr(server, "should_exit", True))
        if self.inbox is not None:
            begin(self.inbox)
        host, port = bound.getsockname()[:2]
        logs.announce(f"Serving {len(self.bots.handlers)} bots on http://{host}:{port} until SIGTERM or Ctrl-C")
        try:
            asyncio.run(listen.run(server, bound))
        finally:
            self.stopped.set()
            if self.responder is not None:
                self.responder.close()
            if self.inbox is not None:
                self.inbox.close(grace=_GRACE)
            if self.history is not None:
                self.history.close()

    def begin(self, inbox: Inbox, *, cron: bool, since: datetime | None, sync_practices: bool) -> None:
        """Launch the inbox, and start what runs beside it."""
        job = self.syncs.job(
            at_once=int(self.numbers["BOT_HOST_SYNCS_PER_SOURCE"]), here=int(self.numbers["BOT_HOST_SYNCS"])
        )
        runs_syncs = sync_practices or self.login is not None  # a host with a login runs what any host has queued
        if runs_syncs:
            jobs.register(job)
        inbox.launch()
        if runs_syncs:
            jobs.open_queue(job)
        if sync_practices:
            self._thread(jobs.repeat, job)
        self._thread(sweep_hourly, inbox.sweep)
        if cron:
            try:
                schedule.start(self.bots, connect_environment(self.environ), self.servers[0], now=datetime.now(UTC))
            except BotError:
                inbox.close(grace=1)
                raise
        if self.login is None:
            _log.warning(
                "The host has no login of its own: an accepted event whose process or token ends before its run does "
                "becomes a dead letter, and what changes while no host answers is lost. Set MEDPLUM_CLIENT_ID and "
                "MEDPLUM_CLIENT_SECRET."
            )
        else:
            self._catch_up(inbox, self.login, since)
        if self.history is not None:
            self._alert(inbox, self.history)

    def _catch_up(self, inbox: Inbox, login: Callable[[], Medplum], since: datetime | None) -> None:
        """Search for missed changes. The first marks are stored before the host is ready."""
        every = self.numbers["BOT_HOST_CATCH_UP_SECONDS"]
        server = catch_up.own_server(self.environ, self.servers) if every > 0 else None
        if server is None:
            _log.warning("The host does not search for changes that it missed.")
            return
        search = catch_up.CatchUp(self.bots, login(), server, inbox, now=partial(catch_up.server_time, server))
        self.marks = marks = Marks(inbox.settings.database_url, server)
        catch_up.begin(search, marks, since)
        missed = partial(self.occurrences.add, "missed")
        self._thread(catch_up.repeat, search, marks, every=every, missed=missed)

    def _alert(self, inbox: Inbox, history: History) -> None:
        """Check for alerts."""
        syncs = cached(TTLCache(1, _SYNC_SECONDS))(partial(unhealthy, self.environ))
        alerts = Alerts(
            inbox.settings.database_url,
            self.alerts,
            dead=inbox.dead_letters,
            history=history,
            occurrences=self.occurrences,
            syncs=syncs,
        )
        self._thread(alerts.repeat)

    def _thread(self, work: Callable[..., object], *given: object, **options: object) -> None:
        """Run ``work`` in a thread until the host stops."""
        threading.Thread(target=work, args=(*given, self.stopped), kwargs=options, daemon=True).start()
