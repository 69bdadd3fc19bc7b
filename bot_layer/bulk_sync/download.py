"""The files of an export onto this machine's disk, several at once, each until it is whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC
from itertools import islice
from typing import Final

import orjson

from bot_layer.bulk_sync.polling import Places, fresh_place
from bot_layer.bulk_sync.progress import show_counts, with_bad_lines, with_file, with_loaded
from bot_layer.bulk_sync.rules import references
from bot_layer.bulk_sync.rules.brought_types import may_be_brought
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import REFUSED_FILE, NotExported, merged, read_outcomes
from bot_layer.bulk_sync.rules.ndjson import BadLine, Line, Resource, read_resources, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState
from bot_layer.bulk_sync.rules.time_stamps import instant, is_instant
from bot_layer.bulk_sync.rules.write_order import place_of
from bot_layer.bulk_sync.session import Halted, Session, job_of
from bot_layer.bulk_sync.source.files import FileChanged, LinkExpired
from bot_layer.bulk_sync.source.hosts import FileRefused, shown
from bot_layer.bulk_sync.state.spool import Spooled
from bot_layer.bulk_sync.upsert_worker import Loaded, UpsertWorker, counted
from bot_layer.errors import PermanentError
from bot_layer.fhir.json import Json

READERS: Final = 8
_TOGETHER: Final = 500  # lines in one transaction
_TYPE: Final = re.compile(r"[A-Za-z]{1,64}")


def download_files(session: Session, worker: UpsertWorker, states: Iterable[FileState], places: Places) -> None:
    """Have every file on disk. The first failure is raised when all have come to rest."""
    # The state may not know yet what is on disk: then the file is read again, so that it is counted.
    left = [each for each in states if not each.done or number_of(session, each) not in session.spool.whole()]
    if not left:
        return
    faults: list[BaseException] = []
    with ThreadPoolExecutor(min(READERS, len(left)), thread_name_prefix="pf-read") as readers:
        tasks = [
            readers.submit(_download, session, worker, each, places[each.kind, each.type, each.turn]) for each in left
        ]
    faults = [fault for task in tasks if (fault := task.exception()) is not None]
    # A lost link, or somebody else's turn, says more than that the time is over.
    for fault in sorted(faults, key=lambda each: isinstance(each, Halted)):
        raise fault


def number_of(session: Session, state: FileState) -> int:
    """The place of a file in its job, by which the spool knows it."""
    same = (state.kind, state.type, state.turn)
    return next(n for n, each in enumerate(session.job.files) if (each.kind, each.type, each.turn) == same)


def _download(session: Session, worker: UpsertWorker, state: FileState, file: ExportFile) -> None:
    """Have a whole file on disk; twice if it changed, expired or was cut off."""
    session.log("PFBulkExport", f"Downloading NDJSON file: {shown(session.source.files.address(file))}")
    for attempt in (1, 2):
        reader = _Reader(session, worker, state, number_of(session, state))
        try:
            reader.read(session.source.files.chunks(file, requires_token=session.job.requires_token))
        except LinkExpired:
            if attempt == 2:
                raise
            file = fresh_place(session, state)
            continue
        except FileChanged:
            if attempt == 2:
                raise
            continue
        except FileRefused as fault:
            session.log("PFBulkExport", f"A file of {state.type} is not read: {fault.message}")
            reader.refused = True
            reader.end()
            return
        if state.count is None or reader.handled >= state.count or attempt == 2:
            break
        # Fewer resources than the manifest promised: something was cut off. To read it again does no harm.
        session.log("PFBulkExport", f"{state.type}: {reader.handled} of {state.count} resources arrived; reading again")
    if state.count is not None and reader.handled < state.count:
        raise PermanentError(
            f"A file of {state.type} holds {reader.handled} resources, but the manifest says {state.count}.",
            service="Practice Fusion",
            path="export file",
            code="file-incomplete",
        )
    session.log("PFBulkExport", f"Parsed {reader.handled} resources from file")
    reader.end()


def keep(session: Session, worker: UpsertWorker, number: int, resources: Iterable[Resource]) -> Loaded:
    """Put what is new or changed onto disk; what the source sent before just so is counted as unchanged."""
    found = [each for each in resources if each.key is not None]
    keys = {each.key for each in found if each.key is not None}
    if session.run.reconcile:
        session.map.write_seen(keys)
    same = worker.unchanged(found)
    source = session.settings.source
    spooled, targets = list[Spooled](), dict[Key, frozenset[Key]]()
    for each in found:
        if each.key is None or each.key in same:
            continue
        # Content behind a link is fetched as such, not read as a resource.
        targets[each.key] = references.targets(each.value, source)
        body = each.raw or orjson.dumps(each.value)
        place = place_of(each.key, each.value, source)
        spooled.append(Spooled(each.key, place, body, _updated(each.value), each.number))
    session.map.write_references(targets.items())
    session.spool.add(number, spooled, set[Key]().union(*targets.values()))
    return Loaded(counted((each.type, "unchanged") for each in found if each.key in same))


@dataclass
class _Reader:
    """Reads one file; what it finds is counted when the whole of it is on disk."""

    session: Session
    worker: UpsertWorker
    state: FileState
    number: int
    handled: int = 0
    loaded: Loaded = field(default_factory=Loaded)
    bad: list[BadLine] = field(default_factory=list)
    unwanted: Counter[str] = field(default_factory=Counter)
    outcomes: list[Json] = field(default_factory=list)
    refused: bool = False  # the file is at an address to which nothing is sent

    def read(self, chunks: Iterable[bytes]) -> None:
        """Every line of the file."""
        self.session.spool.begin(self.number)
        lines = _Counted(split_lines(chunks))
        items = read_resources(lines, loads=orjson.loads)
        seen = 0
        while some := list(islice(items, _TOGETHER)):
            self.session.check_time()
            seen += len(some)
            self.bad += [each for each in some if isinstance(each, BadLine)]
            wanted = [each for each in some if isinstance(each, Resource) and self._wanted(each)]
            self.loaded = self.loaded.plus(keep(self.session, self.worker, self.number, wanted))
        self.handled = max(seen, lines.number)

    def _wanted(self, resource: Resource) -> bool:
        """True for a type that was asked for. Others are reported; an export file can't create what it likes."""
        kind = resource.type
        if kind == "OperationOutcome":
            self.outcomes.append(resource.value)
        elif not _TYPE.fullmatch(kind):
            self.bad.append(BadLine(resource.number, "not a resource type"))
        elif kind not in self.session.job.types or not may_be_brought(kind):
            self.unwanted[kind] += 1
        elif resource.key is None:
            self.bad.append(BadLine(resource.number, "its id or its meta is none of FHIR's"))
        else:
            return True
        return False

    def end(self) -> None:
        """Count the file, once, however often it is downloaded."""
        session, state = self.session, self.state
        session.spool.end(self.number)
        with session.lock:
            run = session.run
            current = job_of(run).files[self.number]
            if current.done:
                return
            failed = counted((state.type, "failed") for _ in self.bad)
            run = with_loaded(run, self.loaded.plus(Loaded(failed)))
            place = f"{state.type} file {state.turn + 1} line"
            run = with_bad_lines(run, (f"{place} {each.number}: {each.reason}" for each in self.bad))
            report = read_outcomes(self.outcomes, job_of(run).types, named=state.type)
            notes = (*run.notes, *report.notes, *self._unwanted())
            missing = (*report.missing, *([NotExported(state.type, 1, REFUSED_FILE)] if self.refused else []))
            run = replace(run, notes=notes, not_exported=merged(run.not_exported, missing))
            session.keep(run.with_job(with_file(job_of(run), replace(state, done=True))))
        show_counts(session, self.loaded, state.count)

    def _unwanted(self) -> Iterator[str]:
        for kind, number in sorted(self.unwanted.items()):
            yield f"{number} x {kind} in a file of {self.state.type}: not asked for, not written"


@dataclass
class _Counted:
    """The lines that pass, and the number of them."""

    inner: Iterator[Line]
    number: int = 0

    def __iter__(self) -> Iterator[Line]:
        for line in self.inner:
            self.number += 1
            yield line


def _updated(resource: dict[str, object]) -> str:
    """The source's time stamp in a form that sorts; empty where it can't be read."""
    meta = resource.get("meta")
    text = meta.get("lastUpdated") if isinstance(meta, dict) else None
    if not isinstance(text, str) or not is_instant(text):
        return ""
    return instant(text).astimezone(UTC).isoformat(timespec="microseconds")
