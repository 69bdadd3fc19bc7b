"""One file of a run that somebody else holds: loaded here, its place kept in the shared map, told when it is done.

Whoever holds the run may be another process, and may be gone: what is written here is written only while the lease in
Medplum's Task holds, and while nobody else has begun this file anew.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import orjson

from bot_layer.bulk_sync.beginning import use_scopes
from bot_layer.bulk_sync.files import KeysInFlight
from bot_layer.bulk_sync.fleet import FileTask
from bot_layer.bulk_sync.load_files import load_file
from bot_layer.bulk_sync.polling import Places, places_of, whole
from bot_layer.bulk_sync.rules.bulk_export import Complete, Failed
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState, Job, Run, SyncState, add_part, part_of
from bot_layer.bulk_sync.rules.task import read_part
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.bulk_sync.source.files import LinkExpired
from bot_layer.bulk_sync.state.id_map import SyncMap
from bot_layer.bulk_sync.state.task_store import LeaseLost, SyncStore
from bot_layer.bulk_sync.worker_pool import loading
from bot_layer.errors import BotError, TransientError
from bot_layer.fhir.json import Json

NOTE: Final = "file "  # how the notes on files begin
_TURN_SECONDS: Final = 0.2
_MOST_TURNS: Final = 600


class Gone(Exception):
    """The run is over, or nobody holds it any more, or the file is somebody else's: nothing is to be done here."""


@dataclass
class PartStore(SyncStore):
    """The Task as a worker sees it: looked at, never written. What the file brought is kept in the shared map."""

    kept: SyncMap = field(kw_only=True)
    task: FileTask = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._looked_at = self.clock()
        self._looking = threading.Lock()
        self.before = Run(self.task.run, 0.0)

    def open(self) -> tuple[SyncState, FileState]:
        """The run with no counts but those of this file, and how far the file is; Gone where it is not wanted."""
        self.kept.write_note(self._holder, self.owner)
        # What an attempt that broke off was writing is done by now, or never.
        self.kept.give_all_back(self.task.place)
        state, job = self._wanted(self.look())
        file = next((each for each in job.files if (each.type, each.turn) == (self.task.type, self.task.turn)), None)
        if state.run is None or file is None or file.done:
            raise Gone
        self.before = replace(state.run, counts={}, overwritten=0, kept=0, bad_lines=())
        run = self.before
        if note := self.kept.note(NOTE + self.task.place):
            text = orjson.loads(note)
            run = add_part(run, read_part(text["part"]))
            file = replace(file, lines=text["lines"])
        self.state = replace(state, run=run.with_job(replace(job, files=(file,))))
        return self.state, file

    def save(self, state: SyncState, *, release: bool = False) -> SyncState:  # noqa: ARG002 - as the other store does
        """Keep the place in the file, and what it brought so far."""
        with self.lock:
            self.state = state
            self.kept.write_note(NOTE + self.task.place, orjson.dumps(self.answer()).decode())
            return state

    def answer(self) -> Json:
        """What the file brought so far."""
        run = self.state.run
        job = run.job if run is not None else None
        if run is None or job is None:
            raise AssertionError("a file belongs to a run")
        return {"lines": job.files[0].lines, "part": asdict(part_of(self.before, run))}

    def check(self) -> None:
        """LeaseLost where the run is not held any more, or the file was begun anew: looked at now and then."""
        with self._looking:
            if self.clock() < self._looked_at + self.lease_seconds / 6:
                return
            self._looked_at = self.clock()
            try:
                self._wanted(self.look())
            except Gone as fault:
                raise self._lost() from fault

    def renew(self) -> None:
        """Whoever holds the run renews the lease."""
        self.check()

    def _wanted(self, state: SyncState) -> tuple[SyncState, Job]:
        run = state.run
        held = bool(state.owner) and self.clock() < state.until
        if run is None or run.over or run.id != self.task.run or not held:
            raise Gone
        if run.job is None or sum(each.done for each in run.jobs) != self.task.job:
            raise Gone
        if self.kept.note(self._holder) != self.owner:
            raise Gone
        return state, run.job

    @property
    def _holder(self) -> str:
        return f"{NOTE}holder {self.task.place}"


@dataclass
class SharedKeys(KeysInFlight):
    """Lets nobody write a key that somebody else is writing, in whatever process."""

    kept: SyncMap = field(kw_only=True)
    owner: str = field(kw_only=True)
    wait: Callable[[float], None] = field(kw_only=True)

    def take(self, keys: set[Key]) -> None:
        """Wait until nobody writes any of these, and claim them; TransientError where that takes too long."""
        super().take(keys)
        claimed = False
        try:
            claimed = self._claim(keys)
        finally:
            if not claimed:
                super().give(keys)
        if not claimed:
            raise TransientError("Another file holds the same resources.", service="Medplum", code="keys-claimed")

    def _claim(self, keys: set[Key]) -> bool:
        for _ in range(_MOST_TURNS):
            if self.kept.claim(keys, self.owner):
                return True
            self.wait(_TURN_SECONDS)
        return False

    def give(self, keys: set[Key]) -> None:
        """Let others write them."""
        try:
            self.kept.give_back(keys, self.owner)
        finally:
            super().give(keys)


@dataclass
class FileWorker:
    """Loads files of runs that this process, or another, holds. ``session`` is what a run of its own would use."""

    session: Session

    def __post_init__(self) -> None:
        self._places: dict[str, Places] = {}
        self._lock = threading.Lock()

    def load(self, task: FileTask) -> Json:
        """What came of a file: ``end`` is done, stopped (to be given out again), expired, again or failed."""
        try:
            return self._load(task)
        except (Gone, Halted, LeaseLost):
            return {"end": "stopped"}
        except LinkExpired:
            return {"end": "expired"}
        except TransientError as fault:
            return {"end": "stopped" if fault.code == "keys-claimed" else "again", **_told(fault)}
        except BotError as fault:
            return {"end": "failed", **_told(fault)}

    def _load(self, task: FileTask) -> Json:
        of = self.session
        store = PartStore(
            of.store.medplum,
            of.store.source,
            uuid.uuid4().hex,
            of.store.lease_seconds,
            of.store.clock,
            kept=of.map,
            task=task,
        )
        state, file = store.open()
        keys = SharedKeys(kept=of.map, owner=task.place, wait=of.source.wait)
        session = replace(of, store=store, keys=keys, fleet=None)
        use_scopes(session, state)
        session.medplum.lookups.writers = frozenset(state.writers)
        with loading(session, session.run) as files:
            load_file(session, files, file, self._places_of(session)["output", task.type, task.turn])
        store.save(store.state)  # whoever has to load this file again finds all of it loaded
        return {"end": "done", **store.answer()}

    def _places_of(self, session: Session) -> Places:
        """Where the files of an export are: asked once, by whoever loads the first of them here."""
        url = session.job.status_url
        with self._lock:
            if url not in self._places:
                answer = session.source.exports.status(url)
                if isinstance(answer, Failed) and answer.lost:
                    raise LinkExpired("The export is gone.")
                if not isinstance(answer, Complete):
                    raise TransientError(
                        "The export could not be looked at.", service="Practice Fusion", path="export status"
                    )
                self._places = {url: places_of(whole(session, answer.manifest))}
            return self._places[url]


def _told(fault: BotError) -> Json:
    return {"code": fault.code, "message": fault.message, "service": getattr(fault, "service", "")}
