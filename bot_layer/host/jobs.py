"""Named jobs that all hosts of a database share: each item runs at most once at a time, on any host that has room.

``serve`` registers a job; the host does not know what it does. An item waits in the partition of the partner that it
loads. A partition runs a limited number of items at once over all hosts, longest waiting first. If a host dies, another
one takes over its runs, so the work must be safe to repeat. https://docs.dbos.dev/python/tutorials/queue-tutorial
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa
from dbos import DBOS, SetEnqueueOptions, SetWorkflowID, error

from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.host.durable import serving
from bot_layer.host.invoke import place_of
from bot_layer.host.rules import inbox as rules
from bot_layer.host.rules.inbox import Verdict

_OPEN: Final = ("ENQUEUED", "DELAYED", "PENDING")
HALTED: Final = Verdict("halted")  # the host ends: another one, or the next process, resumes the run
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """What a job runs at most once at a time.

    ``partner`` names the system that it loads, such as a server's host. ``turn`` names the run: the same at every host
    that finds it due. ``asked`` is True if a person requested the run, so that it need not be due.
    """

    name: str
    partner: str
    turn: str
    asked: bool = False


@dataclass(frozen=True)
class Job:
    """Work that is due regularly.

    ``due`` gives the items to run now, the one that has waited longest first. ``run`` gets the name of an item and
    whether a person requested it; after the verdict ``again`` the item runs once more, after a pause. At most
    ``at_once`` items of one partner run over all hosts, and ``here`` of all partners on one host.
    """

    name: str
    due: Callable[[], Sequence[Item]]
    run: Callable[[str, bool], Verdict]
    at_once: int = 4
    here: int = 2


_jobs: dict[str, Job] = {}


def register(job: Job) -> None:
    """Let this host run a job. Call it before the inbox is launched, which resumes what an earlier process left."""
    _jobs[job.name] = job


def open_queue(job: Job) -> None:
    """Let this host run what is queued. Call it once the inbox is launched."""
    DBOS.register_queue(_queue(job), partition_concurrency=job.at_once, worker_concurrency=job.here)


def repeat(job: Job, stopped: threading.Event, *, every: float = 60.0) -> None:
    """Queue what is due, at once and then regularly, until the host stops."""
    while True:
        try:
            enqueue(job, job.due())
        except BotError as fault:
            _log.warning("What is due of %s is not known: %s: %s", job.name, fault.code, fault.message)
        except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            _log.warning("What is due of %s was not queued: %s", job.name, type(fault).__name__)
        if stopped.wait(every):
            return


def enqueue(job: Job, items: Sequence[Item]) -> None:
    """Queue items, except those already waiting or running on any host."""
    waiting = DBOS.list_workflows(workflow_id_prefix=_id(job), status=list(_OPEN), load_output=False) if items else []
    under_way = {run.input["args"][1] for run in waiting if run.input}
    for item in items:
        if item.name not in under_way:
            with (
                SetWorkflowID(f"{_id(job)}{item.name}:{item.turn}"),
                SetEnqueueOptions(queue_partition_key=item.partner),
            ):
                asked = [True] if item.asked else []  # an earlier version has no such argument
                DBOS.enqueue_workflow(_queue(job), run_job, job.name, item.name, *asked)


def _queue(job: Job) -> str:
    return f"job-{job.name}"


def _id(job: Job) -> str:
    return f"job:{job.name}:"


@DBOS.step(name="job-attempt")
def _attempt(name: str, item: str, number: int, asked: bool) -> Json:  # DBOS stores arguments by position
    """One attempt, stored with its number."""
    end = Verdict("dead", "unknown-job")
    if name in _jobs:
        try:
            with serving().counted():
                end = _jobs[name].run(item, asked)
        except Exception as fault:  # noqa: BLE001  # DBOS would store and log its text, which may quote a person
            _log.error("A run of %s failed: %s", name, place_of(fault))
            end = Verdict("dead", "internal-error")
    else:
        _log.error("This host does not run %s, but shares the database with one that does", name)
    return asdict(end) | {"attempt": number}


@DBOS.workflow(name="run_job", max_recovery_attempts=None)
def run_job(name: str, item: str, asked: bool = False) -> Json:  # positional, as above; older runs lack it
    """Repeat attempts until the run ends or fails too often; it is queued again when it is due."""
    settings = serving().settings
    failed = 0
    with serving().executing():
        for number in itertools.count():
            end = _attempt(name, item, number, asked)
            wait = 1.0 if end["state"] == HALTED.state else None
            if end["state"] == "again":
                wait = rules.pause(failed, end["retry_after"], first=settings.first_pause, most=settings.attempts)
                failed += 1
            if wait is None:
                break
            serving().pause(time.time() + wait)
    return end
