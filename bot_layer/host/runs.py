"""The runs of an inbox, listed and managed from another process."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from types import SimpleNamespace
from typing import Any, Final, TypedDict, Unpack, cast

import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions, SetWorkflowID, WorkflowStatus, error

from bot_layer.bot.collection import Collection
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.host import storage
from bot_layer.host.history import OPERATION, Entry, History, new_id, word
from bot_layer.host.rules.inbox import Intake, partition
from bot_layer.host.vault import Vault

EVENTS: Final = "events"
WORKFLOW: Final = "run_event"
APPLICATION_VERSION: Final = "1"  # fixed, so that a newer release of the host processes older events
DEAD: Final = ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
STATES: Final = ("waiting", "running", "done", "refused", "failed", "dead", "retried", "cancelled")
STATE_OF: Final = {  # by DBOS's status; a finished run may also be refused, a dead letter retried
    "ENQUEUED": "waiting",
    "DELAYED": "waiting",
    "PENDING": "running",
    "SUCCESS": "done",
    **dict.fromkeys(DEAD, "dead"),
    "CANCELLED": "cancelled",
}
_REASON: Final = re.compile(r"(\S+) after (\d+)")
_PREFIX: Final = re.compile(r"[A-Za-z0-9-]{4,64}")
_PAGE: Final = 500


@dataclass(frozen=True)
class Run:
    """One run: what triggered it, its state, and why it ended. Its only personal data is a reference."""

    id: str
    bot: str
    kind: str
    resource: str
    state: str
    code: str
    attempts: int
    created: datetime
    updated: datetime
    action: str = ""
    ms: float | None = None
    version: str = ""
    sealed: str | None = field(default=None, repr=False)


class Chosen(TypedDict, total=False):
    """A filter for runs: by bot, state, code, and start of the time span."""

    bot: str | None
    state: str | None
    code: str | None
    since: datetime | None


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run: when it began, how it ended, and how long it took."""

    number: int
    began: datetime
    state: str
    code: str
    ms: float


class Runs:
    """The runs in one database, newest first: events of the inbox, and operations that a caller waited for."""

    def __init__(self, client: DBOSClient, history: History, key: str | None = None) -> None:
        self.most = 10_000
        self.history = history
        self._client = client
        self._vault = Vault(key)

    def listed(self, *, limit: int = 100, **chosen: Unpack[Chosen]) -> list[Run]:
        """The newest of the chosen runs."""
        events = (
            run
            for run in self._events(chosen)
            if all(chosen.get(name) in (None, getattr(run, name)) for name in ("bot", "state", "code"))
        )
        operations = map(_operation, self.history.entries(kind=OPERATION, limit=limit, **chosen))
        return list(islice(heapq.merge(events, operations, key=lambda run: run.created, reverse=True), limit))

    def _events(self, chosen: Chosen) -> Iterator[Run]:
        state, since = chosen.get("state"), chosen.get("since")
        status = {"refused": "done", "retried": "dead"}.get(state or "", state)
        if state == "failed":
            return  # a failed event is retried, and then becomes a dead letter
        for offset in range(0, self.most, _PAGE):
            found = self._client.list_workflows(
                name=WORKFLOW,
                status=[name for name, found in STATE_OF.items() if found == status] or None,
                start_time=since.isoformat() if since else None,
                sort_desc=True,
                limit=min(_PAGE, self.most - offset),
                offset=offset,
            )
            yield from map(run_of, found)
            if len(found) < _PAGE:
                return

    def followed(self, *, go_on: Callable[[], bool], limit: int = 100, **chosen: Unpack[Chosen]) -> Iterator[Run]:
        """The newest runs, oldest first, then each new or changed run, as long as ``go_on`` returns True."""
        shown: dict[str, str] = {}
        most = limit
        while True:
            found = self.listed(limit=self.most, **chosen)
            changed = [run for run in found if shown.get(run.id) != run.state]
            shown.update({run.id: run.state for run in changed})
            yield from reversed(changed[:most])
            most = self.most  # later rounds omit nothing, however many runs were added
            if not go_on():
                return

    def one(self, run_id: str) -> Run:
        """The run with an id or an id prefix; InputError if none or several match."""
        if operation := next(iter(self._operations(run_id)), None):
            return _operation(operation)
        return run_of(self._status(run_id))

    def attempts(self, run: Run) -> list[Attempt]:
        """The attempts of an event so far."""
        steps = self._client.list_workflow_steps(run.id) if run.kind != OPERATION else []
        ended = [(each["started_at_epoch_ms"], each["output"]) for each in steps if each["function_name"] == "attempt"]
        return [
            Attempt(number, _instant(began), word(end.get("state")), word(end.get("code")), float(end.get("ms") or 0.0))
            for number, (began, end) in enumerate(ended, start=1)
            if isinstance(end, dict)
        ]

    def data(self, run: Run) -> Any:
        """The event's input, decrypted; None if the inbox keeps only references, or the key differs."""
        envelope = self._vault.get(run.id, run.sealed)
        return None if envelope is None else envelope.get("input")

    def again(self, run_id: str, *, only_failed: bool) -> str:
        """Queue a new run of the same event after the waiting runs of its resource; returns the id."""
        status = self._status(run_id)
        run = run_of(status)
        if run.state in {"waiting", "running"}:
            raise InputError("That run has not ended yet.", code="run-not-ended")
        if only_failed and run.state not in {"dead", "cancelled"}:
            raise InputError(
                "Only a dead letter or a cancelled run is retried; replay runs any again.", code="not-dead"
            )
        with storage.unrepeated(), SetWorkflowID(new_id()):
            fork = self._client.fork_workflow(
                run.id, 1, queue_name=status.queue_name, queue_partition_key=status.queue_partition_key
            )
        return str(fork.workflow_id)

    def queue(self, bots: Collection) -> ClientQueue:
        """The queues for runs of these bots, served by the hosts of the database."""
        return ClientQueue(self._client, bots)

    def cancel(self, run_id: str) -> None:
        """End a waiting run; a running one ends after its current attempt."""
        run = run_of(self._status(run_id))
        if run.state not in {"waiting", "running"}:
            raise InputError("That run has ended already.", code="run-ended")
        with storage.unrepeated():
            self._client.cancel_workflow(run.id)

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()

    def _operations(self, run_id: str) -> list[Entry]:
        return [entry for entry in self.history.find(run_id) if entry.kind == OPERATION] if run_id else []

    def _status(self, run_id: str) -> WorkflowStatus:
        if self._operations(run_id):
            raise InputError("That is an operation: whoever called it can call it again.", code="not-an-event")
        found = self._client.list_workflows(workflow_ids=[run_id]) or (
            self._client.list_workflows(workflow_id_prefix=run_id, name=WORKFLOW, limit=2)
            if _PREFIX.fullmatch(run_id)
            else []
        )
        if len(found) > 1:
            raise InputError("Several runs have an id that begins so: give more of it.", code="ambiguous-run")
        if not found:
            raise InputError("There is no run of this id; see medplum-bots runs list.", code="unknown-run")
        return found[0]


@dataclass(frozen=True)
class ClientQueue:
    """The queues of the inbox, used from another process: a host of the database runs what is stored here."""

    client: DBOSClient
    bots: Collection

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a run."""
        found = self.client.list_workflows(workflow_ids=list(ids), load_input=False, load_output=False) if ids else []
        return {run.workflow_id for run in found}

    def enqueue(self, taken: Intake) -> None:
        """Store a run; an existing run with the same id is not changed."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue_of(self.bots, taken.record["bot"]),
            "workflow_id": taken.id,
            "queue_partition_key": partition(taken.lane),
            "app_version": APPLICATION_VERSION,
        }
        with storage.unrepeated():
            self.client.enqueue(options, taken.record | {"sealed": None, "traceparent": None})

    def counts(self) -> Mapping[str, int]:
        """How many runs are waiting."""
        return {}


def connect_runs(database_url: str, history: History, key: str | None = None) -> Runs:
    """The runs in a database, until ``close``."""
    client = DBOSClient(system_database_url=database_url, serializer=DBOSPortableJSONSerializer())
    return Runs(client, history, key)


def without_inbox(history: History) -> Runs:
    """The operations of a host without an inbox."""
    return Runs(cast(DBOSClient, SimpleNamespace(list_workflows=lambda **_: [])), history)


@contextmanager
def open_runs(database_url: str, key: str | None = None) -> Iterator[Runs]:
    """The runs in a database; InputError if it can't be read, ConfigError if it can't be written."""
    try:
        with closing(History(database_url, key)) as history, closing(connect_runs(database_url, history, key)) as runs:
            yield runs
    except storage.NotStored as fault:
        raise storage.unusable(database_url, fault) from fault
    except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
        raise InputError(
            "The inbox can't be read: is --inbox, or the host's BOT_HOST_DATABASE_URL, that of a host that ran?",
            code="no-inbox",
        ) from fault


def _operation(entry: Entry) -> Run:
    at = datetime.fromtimestamp(entry.at, UTC)
    state, code = entry.state, entry.code
    return Run(entry.id, entry.bot, OPERATION, "", state, code, 1, at, at, action=entry.action, ms=entry.ms)


def queue_of(bots: Collection, bot: str) -> str:
    """The queue of a bot's events. A bot with Subscriptions has its own, so blocked runs use no other bot's threads."""
    handler = bots.handlers.get(bot)
    return f"{EVENTS}-{bot}" if handler is not None and handler.bot.watches else EVENTS


def run_of(status: WorkflowStatus) -> Run:
    """The run that DBOS stored as a workflow.

    Only a DeadLetter's text is read: that of any other error that ended a run may quote personal data.
    """
    record: Json = (status.input or {"args": [{}]})["args"][0]
    output: Json = status.output if isinstance(status.output, dict) else {}
    state, code = STATE_OF[status.status], str(output.get("code", ""))
    attempts = int(output.get("attempt", 0)) + 1 if output else 0
    if state == "done":
        state = str(output.get("state", state))
    elif state == "dead":
        state = "retried" if status.was_forked_from else state
        text = str(status.error.args[0]) if status.error is not None and status.error.args else ""
        reason = _REASON.fullmatch(text)
        code, attempts = (reason[1], int(reason[2])) if reason else ("internal-error", 1)
    return Run(
        id=status.workflow_id,
        bot=record.get("bot", ""),
        kind=record.get("kind", ""),
        resource=record.get("resource", ""),
        state=state,
        code=code,
        attempts=attempts,
        created=_instant(status.created_at),
        updated=_instant(status.updated_at),
        action=word(output.get("action")),
        ms=output.get("ms"),
        version=record.get("version", ""),
        sealed=record.get("sealed"),
    )


def _instant(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
