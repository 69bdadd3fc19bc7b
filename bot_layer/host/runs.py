"""The runs of an inbox, looked at and handled from another process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions, WorkflowStatus

from bot_layer.bot.collection import Collection
from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.host.durable import APPLICATION_VERSION, WORKFLOW, queue_of
from bot_layer.host.retention import DEAD
from bot_layer.host.rules.inbox import Intake, partition
from bot_layer.host.vault import Vault

# Of a DeadLetter; whatever else ended a run may quote anything.
_REASON: Final = re.compile(r"(\S+) after (\d+)")
STATES: Final = ("waiting", "running", "done", "refused", "dead", "retried", "cancelled")
_STATUSES: Final[Mapping[str, list[str]]] = {  # of DBOS, so that what is asked for is not looked for among all others
    "waiting": ["ENQUEUED", "DELAYED"],
    "running": ["PENDING"],
    "done": ["SUCCESS"],
    "refused": ["SUCCESS"],
    "dead": [*DEAD],
    "retried": [*DEAD],
    "cancelled": ["CANCELLED"],
}
_STATES: Final = {"ENQUEUED": "waiting", "DELAYED": "waiting", "PENDING": "running", "CANCELLED": "cancelled"}


@dataclass(frozen=True)
class Run:
    """One run: what set it off, where it stands, and why it ended. It holds nothing of a person but a reference."""

    id: str
    bot: str
    kind: str
    resource: str
    state: str
    code: str
    attempts: int
    created: datetime
    updated: datetime
    sealed: str | None = field(default=None, repr=False)


class Runs:
    """The runs in one database, newest first."""

    def __init__(self, client: DBOSClient, key: str | None = None) -> None:
        self.most = 10_000
        self._client = client
        self._vault = Vault(key)

    def listed(
        self, *, bot: str | None = None, state: str | None = None, since: datetime | None = None, limit: int = 100
    ) -> list[Run]:
        """The newest runs, of one bot, in one state, since an instant."""
        found = self._client.list_workflows(
            name=WORKFLOW,
            status=_STATUSES.get(state or ""),
            start_time=since.isoformat() if since else None,
            sort_desc=True,
            limit=self.most,
        )
        runs = (_run(status) for status in found)
        chosen = (run for run in runs if (bot is None or run.bot == bot) and (state is None or run.state == state))
        return [run for run, _ in zip(chosen, range(limit), strict=False)]

    def followed(
        self,
        *,
        go_on: Callable[[], bool],
        bot: str | None = None,
        state: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> Iterator[Run]:
        """The newest runs, oldest first, then each that is new or in another state, for as long as ``go_on`` says."""
        shown: dict[str, str] = {}
        most = limit
        while True:
            found = self.listed(bot=bot, state=state, since=since, limit=self.most)
            changed = [run for run in found if shown.get(run.id) != run.state]
            shown.update({run.id: run.state for run in changed})
            yield from reversed(changed[:most])
            most = self.most  # later rounds leave nothing out, however many runs came meanwhile
            if not go_on():
                return

    def one(self, run_id: str) -> Run:
        """The run of an id; InputError where there is none."""
        return _run(self._status(run_id))

    def data(self, run: Run) -> Any:
        """The event's input, decrypted; None where the inbox keeps references only, or the key is another."""
        envelope = self._vault.get(run.id, run.sealed)
        return None if envelope is None else envelope.get("input")

    def again(self, run_id: str, *, only_failed: bool) -> str:
        """The id of a new run of the same event, after those of its resource that wait already."""
        status = self._status(run_id)
        run = _run(status)
        if run.state in {"waiting", "running"}:
            raise InputError("That run has not ended yet.", code="run-not-ended")
        if only_failed and run.state not in {"dead", "cancelled"}:
            raise InputError(
                "Only a dead letter or a cancelled run is retried; replay runs any again.", code="not-dead"
            )
        fork = self._client.fork_workflow(
            run_id, 1, queue_name=status.queue_name, queue_partition_key=status.queue_partition_key
        )
        return str(fork.workflow_id)

    def queue(self, bots: Collection) -> ClientQueue:
        """Where runs of these bots are queued for the hosts of the database."""
        return ClientQueue(self._client, bots)

    def cancel(self, run_id: str) -> None:
        """End a run that waits; one that runs ends after its present attempt."""
        if _run(self._status(run_id)).state not in {"waiting", "running"}:
            raise InputError("That run has ended already.", code="run-ended")
        self._client.cancel_workflow(run_id)

    def _status(self, run_id: str) -> WorkflowStatus:
        found = self._client.list_workflows(workflow_ids=[run_id])
        if not found:
            raise InputError("There is no run of this id; see medplum-bots runs list.", code="unknown-run")
        return found[0]


@dataclass(frozen=True)
class ClientQueue:
    """The queues of the inbox, seen from another process: a host of the database takes up what is stored here."""

    client: DBOSClient
    bots: Collection

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a run."""
        found = self.client.list_workflows(workflow_ids=list(ids), load_input=False, load_output=False) if ids else []
        return {run.workflow_id for run in found}

    def enqueue(self, taken: Intake) -> None:
        """Store a run; one that is there already stays as it is."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue_of(self.bots, taken.record["bot"]),
            "workflow_id": taken.id,
            "queue_partition_key": partition(taken.lane),
            "app_version": APPLICATION_VERSION,
        }
        self.client.enqueue(options, taken.record | {"sealed": None, "traceparent": None})

    def counts(self) -> Mapping[str, int]:
        """How many runs are waiting."""
        return {}


@contextmanager
def open_runs(database_url: str, key: str | None = None) -> Iterator[Runs]:
    """The runs in a database."""
    client = DBOSClient(system_database_url=database_url, serializer=DBOSPortableJSONSerializer())
    try:
        yield Runs(client, key)
    finally:
        client.destroy()


def _run(status: WorkflowStatus) -> Run:
    record: Json = (status.input or {"args": [{}]})["args"][0]
    output: Json = status.output if isinstance(status.output, dict) else {}
    if status.error is not None:
        told = _REASON.fullmatch(str(status.error.args[0] if status.error.args else ""))
        output = {"code": told[1], "attempt": int(told[2]) - 1} if told else {"code": "internal-error"}
    return Run(
        id=status.workflow_id,
        bot=record.get("bot", ""),
        kind=record.get("kind", ""),
        resource=record.get("resource", ""),
        state=_state(status, output),
        code=str(output.get("code", "")),
        attempts=int(output.get("attempt", 0)) + 1 if output else 0,
        created=_instant(status.created_at),
        updated=_instant(status.updated_at),
        sealed=record.get("sealed"),
    )


def _state(status: WorkflowStatus, output: Json) -> str:
    if status.status == "SUCCESS":
        return str(output.get("state", "done"))
    if status.status in DEAD:
        return "retried" if status.was_forked_from else "dead"
    return _STATES[status.status]


def _instant(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
