"""The host that Medplum calls: ``POST /bot-<botId>`` (Fission route) and ``POST /relay/<bot-name>`` with an envelope.

Every answer, including a failure, is 200 with ``{"returnValue", "logResult", "success"}``: for a custom operation, any
other status reaches the caller as a 500 without a reason. https://www.medplum.com/docs/bots. The exceptions are a body
that is not an envelope (400), a body that is too large (413), and a bot with too many concurrent calls (503 with
Retry-After).
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer import spans
from bot_layer.bot.collection import Collection, load
from bot_layer.bot.handler import Handler
from bot_layer.bot.ping import INSTALLATION, LOG, Standing
from bot_layer.errors import AuthError, BotError, InputError, TransientError
from bot_layer.fhir.json import Json, as_object, encode
from bot_layer.host import listen
from bot_layer.host.admission import Admission
from bot_layer.host.calls import RETRY_AFTER, Calls, Turn
from bot_layer.host.envelope import LARGEST_BODY, BodyLimit, read_envelope, read_login
from bot_layer.host.guard import Guard, require_watch
from bot_layer.host.history import OPERATION, Entry, History, new_id, state_of, word
from bot_layer.host.invoke import Result, invoke, is_own_change, queued, refused
from bot_layer.host.latest import Latest
from bot_layer.host.listening import ThreadedServer
from bot_layer.host.metrics import CONTENT_TYPE, Metrics
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.rules.callers import Admitted, kind_of
from bot_layer.host.rules.inbox import LATER_RUN
from bot_layer.host.rules.relay_signature import read_signature, verify

if TYPE_CHECKING:  # DBOS adds half a second to the start, which a host without an inbox can save
    from bot_layer.host.durable import Inbox

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostSettings:
    """What a host serves: the Medplum servers that it trusts, its bots, and the environment with their settings.

    ``largest_body`` is in bytes; ``calls_of_a_bot`` is how many calls of one bot run at once.
    """

    servers: tuple[str, ...]
    bots: Collection = field(default_factory=load)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    projects: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    as_user: bool = False
    agents: Sequence[str] = ()
    relay_key: str | None = field(default=None, repr=False)
    now: Callable[[], float] = time.time
    inbox: Inbox | None = field(default=None, repr=False)
    history: History | None = field(default=None, repr=False)
    occurrences: Occurrences = field(default_factory=Occurrences, repr=False)
    more_routes: tuple[Route, ...] = ()
    largest_body: int = LARGEST_BODY
    calls_of_a_bot: int = 32
    installation: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class Call:
    """One call: the request and its outcome. ``handler`` and ``envelope`` are set once the call is admitted."""

    transport: str
    find: Callable[[Json], tuple[Handler, Admitted]]
    traceparent: str | None
    body: bytes = field(repr=False)
    handler: Handler | None = None
    envelope: Json = field(default_factory=dict, repr=False)
    result: Result | None = None


class Dispatcher:
    """Dispatches an envelope to its bot and returns the result."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.admission = Admission(settings.servers, settings.projects, settings.as_user, settings.agents)
        self.metrics, self.guard, self.calls = Metrics(), Guard(settings.environ), Calls(settings.calls_of_a_bot)

    async def answer(self, call: Call) -> Response:
        """The answer to a call."""
        began = time.perf_counter()
        with self.metrics.running():
            try:
                call.result = await self.calls.answer(lambda turn: self._answer(call, turn))
            except TransientError as error:
                call.result = self._failed(cast(Handler, call.handler), call.envelope, error)
        result, seconds = call.result, time.perf_counter() - began
        self.metrics.ended(call.handler.bot.name if call.handler else None, result, seconds)
        self._note(call, result, seconds * 1000)
        busy = result.error is not None and result.error.code == "too-many-calls"
        headers = {"Retry-After": str(RETRY_AFTER)} if busy else None
        return _json(503 if busy else 200, result.answer(), headers)

    def by_bot_id(self, bot_id: str, login: Json) -> tuple[Handler, Admitted]:
        """The bot with this Medplum id."""
        admitted = self.admission.admit(login, bot_id)
        found = next(filter(None, map(self.settings.bots.identified, admitted.identifiers)), None)
        if found is None:
            raise InputError(
                "This host has no bot with the identifier of that Bot; deploy with deploy_bots.py.", code="unknown-bot"
            )
        return found, admitted

    def by_name(self, name: str, login: Json) -> tuple[Handler, Admitted]:
        """The bot that a relay names; the Bot that runs the relay must be that bot."""
        handler, admitted = self.settings.bots.named(name), self.admission.admit(login)
        if handler.bot.identifier not in admitted.identifiers:
            raise AuthError("The relay runs as another bot than it names.", code="wrong-bot")
        return handler, admitted

    def _answer(self, call: Call, turn: Turn) -> Result:
        """The result of a call, in a thread."""
        login = read_login(call.body)
        with spans.call(call.transport, login, call.traceparent) as span:
            result = self._admitted(call, login, turn)
            if call.handler is not None:
                span.annotate(name=call.handler.bot.name)
            span.annotate(**(call.result or result).facts())  # its caller may have received another one
        return result

    def _admitted(self, call: Call, login: Json, turn: Turn) -> Result:
        """Store the event if no caller waits for its answer, else run the bot. Nothing happens before admission."""
        try:
            handler, admitted = call.find(login)
        except BotError as error:
            return self._refused(error)
        call.envelope, call.body = read_envelope(call.body, login), b""
        call.envelope["bot"] = {"reference": f"Bot/{admitted.bot_id}"}  # a later run may only be of this Bot
        call.handler = handler
        inbox, now = self.settings.inbox, datetime.fromtimestamp(self.settings.now(), UTC)
        kind = kind_of(call.envelope)
        try:
            if kind == "subscription":
                require_watch(handler)
            if inbox is not None and not is_own_change(call.envelope):
                event_id = inbox.take(handler, call.envelope, admitted, now=now)
                if event_id is not None:
                    return queued(event_id)
            with turn.of_bot(handler.bot.name, timeout=handler.bot.timeout, may_wait=kind != "call"):
                result = invoke(
                    handler,
                    call.envelope,
                    environ=self.settings.environ,
                    check=self.guard.check,
                    stand=inbox.stand if inbox else lambda _bot: Standing(self.settings.installation),
                    record=self.settings.history is not None and bool(self.settings.history.key),
                )
        except InputError as error:
            return self._refused(error)
        except TransientError as error:
            return self._failed(handler, call.envelope, error)
        if inbox is not None:
            inbox.ended_at_once(handler, call.envelope, admitted, result.error, now=now)
        return result

    def _failed(self, handler: Handler, envelope: Json, error: TransientError) -> Result:
        _log.warning("%s ended with %s", handler.bot.name, error.code)
        return Result(handler.failure(error, envelope), error=error)

    def _note(self, call: Call, result: Result, ms: float) -> None:
        """Record how a call ended. A queued event is recorded after its run, also if it runs through Medplum."""
        history = self.settings.history
        is_noted = result.queued or result.log == LOG or self._is_later_run(call.envelope)
        if history is None or call.handler is None or is_noted:
            return
        run_id, now = new_id(), self.settings.now()
        history.keep(run_id, now, result.recording)
        entry = Entry(
            id=run_id,
            at=now,
            bot=call.handler.bot.name,
            kind=OPERATION if kind_of(call.envelope) == "call" else "event",
            state=state_of(result.error),
            code=word(result.error and result.error.code),
            action=word(result.facts()["action"]),
            ms=ms,
        )
        history.add(entry)

    def _is_later_run(self, envelope: Json) -> bool:
        """True if the inbox has Medplum run a bot: the call has the host's own login and the inbox's header."""
        own = self.settings.environ.get("MEDPLUM_CLIENT_ID")
        caller = as_object(envelope.get("requester")).get("reference")
        return bool(own) and caller == f"ClientApplication/{own}" and LATER_RUN in as_object(envelope.get("headers"))

    def _refused(self, error: BotError) -> Result:
        _log.warning("Refused a call: %s", error.code)
        self.settings.occurrences.add("refused")
        return refused(error)


def app(settings: HostSettings) -> Starlette:
    """The host as an ASGI application."""
    dispatcher = Dispatcher(settings)
    counts = Latest[dict[str, int]](
        lambda: settings.inbox.counts() if settings.inbox and settings.inbox.ready else {}, {}, keep=0.0
    )

    async def fission(request: Request) -> Response:
        bot_id, body = request.path_params["bot_id"], await request.body()
        traceparent = request.headers.get("traceparent")
        return await dispatcher.answer(
            Call("fission", lambda login: dispatcher.by_bot_id(bot_id, login), traceparent, body)
        )

    def require_relay(header: str, name: str, body: bytes) -> None:
        """Runs in a thread: a large body or the database may take a while."""
        now = settings.now()
        relayed.require_new(verify(str(settings.relay_key), header, name, body, now=now), now=now)

    async def relay(request: Request) -> Response:
        name, header = request.path_params["name"], request.headers.get("X-Bot-Signature", "")
        try:
            read_signature(header, now=settings.now())  # before the body: anyone can reach this address
            body = await request.body()
            await dispatcher.calls.answer(lambda _turn: require_relay(header, name, body))
        except AuthError as error:
            return _json(401, refused(error).answer())
        traceparent = request.headers.get("traceparent")
        return await dispatcher.answer(Call("relay", lambda login: dispatcher.by_name(name, login), traceparent, body))

    async def healthz(_request: Request) -> Response:
        return _json(200, {"ok": True, "bots": len(settings.bots.handlers)})

    async def readyz(_request: Request) -> Response:
        problem = settings.inbox.problem if settings.inbox else ""
        installation = settings.inbox.installation if settings.inbox else settings.installation
        answer = {"ok": False, "problem": problem} if problem else {"ok": True}
        return _json(503 if problem else 200, answer, {INSTALLATION: installation})

    async def figures(_request: Request) -> Response:
        return Response(dispatcher.metrics.page(await counts.get(wait=0.5)), media_type=CONTENT_TYPE)

    routes = [
        Route("/bot-{bot_id}", fission, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", figures),
    ]
    if settings.relay_key:
        from bot_layer.host.relay_calls import RelayCalls  # noqa: PLC0415  # the database import slows the start

        relayed = RelayCalls(settings.inbox.settings.database_url if settings.inbox else None)
        routes.append(Route("/relay/{name}", relay, methods=["POST"]))
    return Starlette(
        routes=[*routes, *settings.more_routes],
        middleware=[Middleware(BodyLimit, settings.largest_body)],
        exception_handlers={InputError: _unread, ClientDisconnect: _left},
    )


class HostServer(ThreadedServer):
    """The host on a loopback port in a thread of this process, for the sandbox, the demo and tests."""

    def __init__(self, settings: HostSettings, *, port: int = 0, bound: socket.socket | None = None) -> None:
        super().__init__(listen.config(app(settings), grace=5), port=port, bound=bound)


async def _unread(_request: Request, error: Exception) -> Response:
    refusal = cast(InputError, error)
    return _json(413 if refusal.code == "envelope-too-large" else 400, refused(refusal).answer())


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client has disconnected, so no traceback is needed


def _json(status: int, value: Json, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, media_type="application/json")
