"""Several processes that load the files of one bulk sync: a queue of DBOS in PostgreSQL, which all of them share.

Each file is a workflow. Of a process that dies, another takes its files over once it has been silent for a while.
https://docs.dbos.dev/python/tutorials/queue-tutorial
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from dbos import DBOS, DBOSPortableJSONSerializer, SetWorkflowID, error

from bot_layer.bulk_sync.fleet import FileTask
from bot_layer.bulk_sync.part import FileWorker
from bot_layer.fhir.json import Json
from bot_layer.host import takeover
from bot_layer.host.heartbeat import new_host_id

APPLICATION: Final = "pf-sync"
_ENDED: Final = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_BEATS: Final = 4  # within the limit: one may come late, and one may fail
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FleetSettings:
    """How a process takes part. ``queue`` is the sync's own: a worker for one source takes no files of another."""

    database_url: str
    queue: str
    parallel: int = 4
    takeover_seconds: float = 60.0
    polling: float = 0.5
    keep_days: float = 7.0


class SyncFleet:
    """This process among those that load, between ``launch`` and ``close``; there is one at a time."""

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings
        self._id = new_host_id()
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, name="pf-heart", daemon=True)

    def launch(self, worker: FileWorker) -> None:
        """Begin to load what is given out."""
        _working.append(worker)
        DBOS(config=self._config())
        DBOS.launch()
        self._engine = takeover.open_engine(self._settings.database_url)
        self.beat(datetime.now(UTC))
        DBOS.register_queue(
            self._settings.queue,
            worker_concurrency=self._settings.parallel,
            polling_interval_sec=self._settings.polling,
        )
        self._heart.start()

    def close(self) -> None:
        """Take nothing new, wait for what is being loaded to reach its next handful, and leave the rest to others."""
        DBOS.destroy(workflow_completion_timeout_sec=30)
        self._stopped.set()
        self._heart.join()
        takeover.leave(self._engine, self._id, application=APPLICATION)
        self._engine.dispose()
        _working.pop()

    def give_out(self, tasks: Sequence[FileTask]) -> None:
        """Let somebody load these; those that were given out before stay as they are."""
        for task in tasks:
            with SetWorkflowID(task.id):
                DBOS.enqueue_workflow(self._settings.queue, load_file, task.record)

    def ended(self, tasks: Sequence[FileTask]) -> Mapping[str, Json]:
        """What came of those that have ended, by id."""
        found = DBOS.list_workflows(workflow_ids=[each.id for each in tasks], status=_ENDED, load_input=False)
        return {run.workflow_id: _answer(run) for run in found}

    def beat(self, now: datetime) -> list[str]:
        """Say that this process lives, and take over from those that fell silent; who they are."""
        limit = self._settings.takeover_seconds
        taken = takeover.take_over(self._engine, self._id, now=now, limit=limit, application=APPLICATION)
        for each in taken:
            _log.warning("Took over the files of a process that is gone: %s", each)
        return taken

    def sweep(self, now: datetime) -> None:
        """Forget the files of long ago."""
        before = (now - timedelta(days=self._settings.keep_days)).isoformat()
        old = DBOS.list_workflows(
            status=_ENDED, completed_before=before, load_input=False, load_output=False, limit=10_000
        )
        DBOS.delete_workflows([run.workflow_id for run in old])

    def _beat_on(self) -> None:
        while not self._stopped.wait(self._settings.takeover_seconds / _BEATS):
            try:
                self.beat(datetime.now(UTC))
            except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
                _log.warning("No heartbeat: %s", type(fault).__name__)

    def _config(self) -> Any:
        """DBOS for files alone. The version is fixed, so that a newer release takes up older files."""
        return {
            "name": APPLICATION,
            "system_database_url": self._settings.database_url,
            "application_version": "1",
            "executor_id": self._id,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "run_migrations": True,
            "enable_otlp": False,
        }


_working: list[FileWorker] = []


@DBOS.step(name="pf_load")
def _load(record: Json) -> Json:
    """One attempt at a file."""
    return _working[-1].load(FileTask(**record))


@DBOS.workflow(name="pf_file")
def load_file(record: Json) -> Json:
    """One file into Medplum; begun again from its place where its process died."""
    return _load(record)


def _answer(run: Any) -> Json:
    if run.status == "SUCCESS" and isinstance(run.output, dict):
        return dict(run.output)
    kind = type(run.error).__name__ if run.error is not None else run.status
    message = f"A worker could not load a file: {kind}. Its log says more."
    return {"end": "failed", "code": "worker-failed", "message": message, "service": "Practice Fusion"}
