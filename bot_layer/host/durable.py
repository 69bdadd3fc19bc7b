"""The host's inbox on DBOS: events are stored before they are acknowledged, and run to the end across restarts.

It uses SQLite by default, PostgreSQL if several hosts share the work. A run is a workflow; each attempt is a step of
it. If a process dies during an attempt, it repeats the attempt after its restart, so bots can be called twice.
https://docs.dbos.dev/python/tutorials/workflow-tutorial
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID, error

from bot_layer import spans
from bot_layer.bot.collection import Collection
from bot_layer.bot.handler import Handler
from bot_layer.bot.ping import Standing
from bot_layer.errors import BotError, ConfigError, InputError, PermanentError
from bot_layer.fhir.json import Json
from bot_layer.host import retention, storage
from bot_layer.host.at_once import AtOnce
from bot_layer.host.guard import Guard
from bot_layer.host.heartbeat import Heartbeat, new_host_id
from bot_layer.host.history import Entry, History, word
from bot_layer.host.invoke import invoke, place_of
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.rules import inbox as rules
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.rules.inbox import Intake, Verdict
from bot_layer.host.runs import APPLICATION_VERSION, DEAD, EVENTS, STATE_OF, WORKFLOW, Run, queue_of, run_of
from bot_layer.host.vault import Vault
from bot_layer.medplum.client import Medplum

CLOCK: Final = "clock"
COUNTED: Final = {status: state for status, state in STATE_OF.items() if state in {"waiting", "running", "dead"}}
_LOOKED_AT: Final = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InboxSettings:
    """How the inbox works. ``parallel`` is how many runs of one bot execute at once.

    ``polling`` is the interval in seconds at which a bot's events are polled. Each poll is two queries for each queue:
    ten queries a second cost an idle host a tenth of a core.

    ``client`` is the host's own login, for events whose token has expired.
    """

    database_url: str
    key: str | None = field(default=None, repr=False)
    host_id: str = field(default_factory=new_host_id)
    takeover_seconds: float = 60.0
    parallel: int = 16
    attempts: int = 8
    first_pause: float = 2.0
    polling: float = 0.25
    keep_days: float = 7.0
    client: Callable[[], Medplum] | None = field(default=None, repr=False)


class DeadLetter(Exception):
    """A run that failed permanently; its text is ``<code> after <attempts>``."""


class Broken(BaseException):
    """The host stops while a run pauses. It is not an Exception, so the run stays unfinished and the next host resumes
    it."""


class Inbox:
    """The only inbox of a process, between ``launch`` and ``close``."""

    def __init__(
        self,
        bots: Collection,
        settings: InboxSettings,
        *,
        environ: Mapping[str, str],
        guard: Guard | None = None,
        history: History | None = None,
        occurrences: Occurrences | None = None,
    ) -> None:
        self.settings = settings
        self._history = history
        self.installation = storage.installation(settings.database_url)
        self._bots = bots
        self._environ = environ
        self._guard = guard or Guard(environ)
        self._vault = Vault(settings.key)
        self._under_way, self._counting, self._closing = 0, threading.Lock(), threading.Event()
        self._executing: set[str] = set()
        self._abandoned: set[str] = set()
        self._heartbeat = Heartbeat(
            settings.database_url,
            settings.host_id,
            limit=settings.takeover_seconds,
            then=self._resume_abandoned,
            occurrences=occurrences,
        )
        self._at_once = AtOnce(self.enqueue)
        self._probe = storage.Probe(settings.database_url, self._store_late)
        self._launched = False

    @property
    def ready(self) -> bool:
        """True while events can be stored."""
        return not self.problem

    @property
    def problem(self) -> str:
        """Why events can't be stored, and what to do; empty while they can."""
        return self._probe.problem if self._launched else "The host is starting or stopping."

    def launch(self) -> None:
        """Resume what an earlier process left, and start running. ConfigError if the database can't be used."""
        storage.require_usable(self.settings.database_url)
        often, seldom = self.settings.polling, self.settings.polling * 4
        _serving.append(self)
        try:
            DBOS(config=config(self.settings))
            DBOS.launch()
            for name in sorted({EVENTS, *(queue_of(self._bots, handler.bot.name) for handler in self._bots)}):
                DBOS.register_queue(
                    name,
                    partition_concurrency=1,
                    worker_concurrency=self.settings.parallel,
                    polling_interval_sec=seldom if name == EVENTS else often,  # only timer events use that queue
                )
            DBOS.register_queue(CLOCK, polling_interval_sec=seldom)
            self._heartbeat.start()
        except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            _serving.remove(self)
            raise storage.unusable(self.settings.database_url, fault) from fault
        self._probe.start()
        self._launched = True

    def close(self, *, grace: int = 30) -> None:
        """Accept nothing new, let current runs end within ``grace`` seconds, and leave the rest for the next
        process."""
        self._launched = False
        self._probe.stop()
        self._heartbeat.retire()
        self._closing.set()
        DBOS.destroy(workflow_completion_timeout_sec=grace)
        self._heartbeat.stop(at_rest=self._under_way == 0)
        _serving.remove(self)

    def run_clock(self) -> None:
        """Run the database's schedules, on every host of the database, as long as this host is alive."""
        self._heartbeat.run_clock()

    def take(self, handler: Handler, envelope: Json, admitted: Admitted, *, now: datetime) -> str | None:
        """Store an event and return its id, or None if it must run now.

        It must run now if its caller waits for the answer, or if the database can't store it: it is never sent again.
        """
        taken = rules.intake(envelope, handler.bot.name, admitted, now=now)
        if taken is None:
            return None
        if self._at_once.is_known(taken.id):
            return taken.id
        try:
            self._store(taken, envelope)
        except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            self._probe.doubt(fault)
            if not self._at_once.begin(taken.id):  # it was delivered twice, and both waited for the database
                return taken.id
            reason = type(fault.__cause__ or fault).__name__
            _log.error("An event of %s was not stored and runs at once: %s", handler.bot.name, reason)
            self.forget(taken.id)
            return None
        return taken.id

    def ended_at_once(
        self, handler: Handler, envelope: Json, admitted: Admitted, cause: BotError | None, *, now: datetime
    ) -> None:
        """Note how an event ended that ``take`` did not store, with the same arguments."""
        taken = rules.intake(envelope, handler.bot.name, admitted, now=now)
        if taken is not None:
            self._at_once.end(taken, envelope, cause)

    def _store(self, taken: Intake, envelope: Json) -> None:
        if not self._probe.ok:
            raise storage.NotStored
        if not storage.within(storage.STORE_SECONDS, lambda: self.enqueue(taken, envelope)):
            raise storage.NotStored from TimeoutError()

    def _store_late(self) -> None:
        """Store the events that ran at once."""
        try:
            with storage.unrepeated():
                self._at_once.store()
        except error.DBOSException as fault:
            raise storage.NotStored from fault

    def enqueue(self, taken: Intake, envelope: Json | None = None) -> None:
        """Store an event; an existing one with the same id is not changed."""
        sealed = self._vault.put(taken.id, envelope) if envelope is not None else None
        with SetWorkflowID(taken.id), SetEnqueueOptions(queue_partition_key=rules.partition(taken.lane)):
            trace = {"sealed": sealed, "traceparent": spans.traceparent()}
            queue = queue_of(self._bots, str(taken.record.get("bot")))
            DBOS.enqueue_workflow(queue, run_event, taken.record | trace)

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a run."""
        found = DBOS.list_workflows(workflow_ids=list(ids), load_input=False, load_output=False) if ids else []
        return {run.workflow_id for run in found} | set(filter(self._at_once.is_known, ids))

    def enqueue_alone(self, taken: Intake) -> None:
        """Store a scheduled run, unless a run of this bot is already waiting or running on any host."""
        with (
            SetWorkflowID(taken.id),
            SetEnqueueOptions(deduplication_id=taken.lane, duplication_policy="return-existing"),
        ):
            DBOS.enqueue_workflow(CLOCK, run_event, taken.record | {"sealed": None})

    def attempt(self, event_id: str, record: Json) -> Verdict:
        """One attempt at a run: with the original envelope, or through Medplum if the envelope is lost or its token has
        expired."""
        began = time.perf_counter()
        with self.counted():
            try:
                found = self._once(record, self._attempt(event_id, record))
                return replace(found, ms=(time.perf_counter() - began) * 1000)
            except Exception as fault:  # noqa: BLE001  # DBOS would store and log its text, which may quote a person
                _log.error("A run of %s failed: %s", record.get("bot"), place_of(fault))
                return Verdict("dead", "internal-error")

    def _once(self, record: Json, found: Verdict) -> Verdict:
        """The verdict, without a second dead letter of a timer for the same reason while the first is still open.

        A bot that is not configured would otherwise produce one every few minutes.
        """
        if found.state != "dead" or record.get("kind") != "cron":
            return found

        same = (record["kind"], record["resource"], found.code)
        is_known = any((run.kind, run.resource, run.code) == same for run in _newest(*DEAD))
        return replace(found, state="refused") if is_known else found

    def _attempt(self, event_id: str, record: Json) -> Verdict:
        try:
            handler = self._bots.named(record["bot"])
        except InputError as unknown:
            return Verdict("dead", unknown.code)
        if (at_once := self._at_once.verdict(event_id, record)) is not None:
            return at_once
        envelope = self._vault.get(event_id, record.get("sealed"))
        if envelope is not None:
            history = self._history
            keeps = history is not None and bool(history.key)
            result = invoke(handler, envelope, environ=self._environ, check=self._guard.check, record=keeps)
            if history is not None:
                history.keep(event_id, time.time(), result.recording)
            found = replace(rules.verdict(result.error), action=word(result.facts()["action"]))
            if found.code != "medplum-login-refused" or self.settings.client is None:
                return found
        return self._by_medplum(record)

    def pause(self, until: float) -> None:
        """Wait until an instant, but no longer than the longest pause; Broken if the host stops first.

        The wait is limited because the clock may be wrong now, or may have been wrong when the instant was stored.
        """
        if self._closing.wait(min(max(0.0, until - time.time()), rules.LONGEST_PAUSE)):
            raise Broken

    def forget(self, event_id: str) -> None:
        """Discard what is kept in memory for a finished run."""
        self._vault.forget(event_id)

    def ended(self, event_id: str, record: Json, end: Json) -> None:
        """Record how a run ended, unless it ran immediately and was recorded then."""
        self.forget(event_id)
        if self._history is not None and end["code"] != "ran-at-once":
            words = {name: word(end.get(name)) for name in ("state", "code", "action")}
            ms = float(end.get("ms") or 0.0)
            self._history.add(Entry(event_id, time.time(), record["bot"], "event", ms=ms, **words))

    def sweep(self, now: datetime, *, at_once: int = 1000) -> int:
        """Delete finished runs past their retention time; dead letters stay until they are resolved."""
        if self._history is not None:
            self._history.sweep(now.timestamp())
        return retention.sweep(now - timedelta(days=self.settings.keep_days), at_once=at_once)

    def counts(self) -> dict[str, int]:
        """How many runs are waiting, running or dead letters, in one snapshot; a repeated run counts in its current
        state."""
        found = DBOS.list_workflows(
            status=list(COUNTED), name=WORKFLOW, was_forked_from=False, load_input=False, load_output=False
        )
        return dict.fromkeys(COUNTED.values(), 0) | Counter(COUNTED[run.status] for run in found)

    def dead_letters(self) -> Mapping[tuple[str, str], int]:
        """The number of dead letters for each bot and code."""
        return Counter((run.bot, run.code) for run in _newest(*DEAD))

    def stand(self, bot: str) -> Standing:
        """The state of a bot's events: how the last one ended, and how many are dead letters."""
        try:
            runs = [run for run in _newest("SUCCESS", *DEAD) if run.bot == bot]
        except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            _log.warning("The inbox's runs were not read: %s", type(fault).__name__)
            runs = []
        if not runs:
            return Standing(self.installation)
        last, dead = runs[0], [run for run in runs if run.state == "dead"]
        ended = last.updated.isoformat(timespec="seconds")
        return Standing(self.installation, last.state, last.code, ended, len(dead))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Work that another host must not start until this host has finished it or is dead."""
        with self._counting:
            self._under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1

    @contextmanager
    def executing(self) -> Iterator[None]:
        """The current DBOS workflow, from its begin to its end."""
        run_id = DBOS.workflow_id or ""
        self._executing.add(run_id)
        try:
            yield
        finally:
            self._executing.discard(run_id)

    def _resume_abandoned(self) -> None:
        """Resume the runs that this host claimed but does not execute: the database failed while it claimed them.

        A run may have been claimed just now, so it must be found twice in a row.
        """
        mine = DBOS.list_workflows(
            status="PENDING", executor_id=self.settings.host_id, load_input=False, load_output=False
        )
        found = {run.workflow_id: run for run in mine if run.queue_name and run.workflow_id not in self._executing}
        for run_id in found.keys() & self._abandoned:
            _log.warning("A run of this host was claimed but not begun, and is resumed.")
            DBOS.resume_workflow(run_id, queue_name=found[run_id].queue_name)
        self._abandoned = set(found)

    def _by_medplum(self, record: Json) -> Verdict:
        """Have Medplum run the bot on the current resource, so that the run gets a fresh token of the bot's own."""
        if self.settings.client is None:
            return Verdict("dead", "no-login-for-a-later-run")
        try:
            client = self.settings.client()
            if record.get("subscription"):
                resource_type = record["resource"].partition("/")[0]
                self._guard.require_subscription(
                    client, record["subscription"], f"Bot/{record['botId']}", resource_type
                )
            given = _input(client, record)
            answer = client.execute(record["botId"], given, {rules.LATER_RUN: "1"}) if given else {}
        except PermanentError as refusal:
            # A bot's own refusal has status 200. With 400, Medplum reports that it lost or did not reach the host.
            return Verdict("again", refusal.code) if refusal.status == 400 else rules.verdict(refusal)
        except BotError as failure:
            return rules.verdict(failure)
        return rules.verdict_of_answer(answer)


_serving: list[Inbox] = []


def _newest(*statuses: str) -> list[Run]:
    """The newest runs with one of these statuses, without those that were run again."""
    found = DBOS.list_workflows(
        status=[*statuses], name=WORKFLOW, was_forked_from=False, sort_desc=True, limit=_LOOKED_AT
    )
    return [run_of(each) for each in found]


def serving() -> Inbox:
    """The inbox of this process."""
    return _serving[-1]


def config(settings: InboxSettings) -> Any:
    """The DBOS configuration of the inbox."""
    return {
        "name": "bot-host",
        "system_database_url": settings.database_url,
        "application_version": APPLICATION_VERSION,
        "executor_id": settings.host_id,
        "serializer": DBOSPortableJSONSerializer(),
        "log_level": "WARNING",
        "run_migrations": True,
        "scheduler_polling_interval_sec": 5.0,  # how long a host may keep running a schedule that another one stopped
        "enable_otlp": False,  # its spans and log records carry workflow ids, which name a patient's resource
    }


@DBOS.step(name="attempt")
def _attempt(event_id: str, record: Json, number: int) -> Json:
    """One attempt, stored by its number."""
    with spans.call("inbox", record, record.get("traceparent")) as span:
        span.annotate(name=record["bot"], attempt=number + 1)
        end = serving().attempt(event_id, record)
        span.annotate(state=end.state, code=end.code or None)
    return asdict(end) | {"attempt": number}


@DBOS.step(name="pause")
def _next_attempt(wait: float) -> float:
    """The instant of the next attempt, stored so that a host that resumes the run waits only for the remaining time."""
    return time.time() + wait


@DBOS.workflow(name=WORKFLOW)
def run_event(record: Json) -> Json:
    """Repeat attempts until the run ends; the last transient failure or any permanent failure makes a dead letter."""
    event_id = DBOS.workflow_id or ""
    settings = serving().settings
    number = 0
    with serving().executing():
        while True:
            end = _attempt(event_id, record, number)
            if end["state"] != "again":
                break
            wait = rules.pause(number, end["retry_after"], first=settings.first_pause, most=settings.attempts)
            if wait is None:
                end["state"] = "dead"
                break
            serving().pause(_next_attempt(wait))
            number += 1
    serving().ended(event_id, record, end)
    if end["state"] == "dead":
        _log.error("A run of %s is a dead letter: %s", record["bot"], end["code"])
        raise DeadLetter(f"{end['code']} after {number + 1}")
    return end


def _input(client: Medplum, record: Json) -> Json | None:
    """The bot's input, read again; None if the changed resource no longer exists.

    ConfigError if this login can't read the Bot: to a login of another project, every resource seems deleted.
    """
    try:
        client.read(f"Bot/{record['botId']}")
    except InputError as unseen:
        raise ConfigError("The host's login is of another project.", code="no-login-for-a-later-run") from unseen
    if record["kind"] == "delete":
        resource_type, _, resource_id = record["resource"].partition("/")
        return {"deletedResource": {"resourceType": resource_type, "id": resource_id}}
    try:
        return client.read(record["resource"])
    except InputError:
        return None
