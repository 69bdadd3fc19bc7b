"""Downloads the files of an export to disk, several at once, each until it is complete."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import islice
from typing import Final

import orjson

from bot_layer.bulk_sync.polling import KICKOFFS, fresh_place
from bot_layer.bulk_sync.progress import show_counts, with_bad_lines, with_file, with_loaded
from bot_layer.bulk_sync.rules import references
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import (
    ANY_TYPE,
    MISSING_FILE,
    REFUSED_FILE,
    SHORT_FILE,
    NotExported,
    read_outcomes,
)
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import BadLine, Line, Resource, read_resources, split_lines, unusable
from bot_layer.bulk_sync.rules.plan import Places, member_digests
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.time_stamps import instant, is_instant
from bot_layer.bulk_sync.rules.write_order import owner_of, place_of
from bot_layer.bulk_sync.session import Halted, Session, job_of
from bot_layer.bulk_sync.source.files import FileChanged, LinkExpired
from bot_layer.bulk_sync.source.hosts import UnsafeAddress, shown
from bot_layer.bulk_sync.state.spool import Spooled
from bot_layer.bulk_sync.upsert_worker import Loaded, UpsertWorker, counted
from bot_layer.errors import ServiceError, TransientError
from bot_layer.fhir.json import Json

READERS: Final = 8
_TOGETHER: Final = 500  # lines in one transaction
_FAILED: Final = 500
_TYPE: Final = re.compile(r"[A-Za-z]{1,64}")


def download_files(session: Session, worker: UpsertWorker, states: Iterable[FileState], places: Places) -> None:
    """Download every file. The first failure is raised after all downloads have ended."""
    # The state may not include a file on disk yet: then the file is read again, so that it is counted.
    left = [each for each in states if not each.done or number_of(session, each) not in session.spool.whole()]
    if not left:
        return
    with ThreadPoolExecutor(min(READERS, len(left)), thread_name_prefix="pf-read") as readers:
        tasks = [readers.submit(_download, session, worker, each, places[each.place]) for each in left]
    faults = [fault for task in tasks if (fault := task.exception()) is not None]
    # An expired link or a lost lease is more important than the end of the time limit.
    for fault in sorted(faults, key=lambda each: isinstance(each, Halted)):
        raise fault


def number_of(session: Session, state: FileState) -> int:
    """The position of a file in its job, which the spool uses as its number."""
    return next(n for n, each in enumerate(session.job.files) if each.place == state.place)


def _download(session: Session, worker: UpsertWorker, state: FileState, file: ExportFile) -> None:
    """Download a complete file, or report what the source does not deliver, without blocking the other files."""
    session.log("PFBulkExport", f"Downloading NDJSON file: {shown(file.url)}")
    reader = _Reader(session, worker, state, number_of(session, state))
    reason = _read_patiently(session, reader, file)
    missing = max((state.count or 0) - reader.handled, 1 if reason else 0)
    if missing:
        reader.missing = NotExported(state.type or ANY_TYPE, missing, reason or SHORT_FILE)
        session.log("PFBulkExport", f"A file of {state.type} is not whole: {reader.missing.reason}")
    session.log("PFBulkExport", f"Parsed {reader.handled} resources from file")
    reader.end()


def _read_patiently(session: Session, reader: _Reader, file: ExportFile) -> str:
    """Read a file, again if it changed, expired or was truncated. Returns why it cannot be read, or an empty text.

    LinkExpired if another export may help.
    """
    expired = short = False
    for attempt in range(1, session.source.tries + 1):
        try:
            reader.read(session.source.files.chunks(file, requires_token=session.job.requires_token))
        except LinkExpired:
            if not expired:
                expired, file = True, fresh_place(session, reader.state)
            elif session.job.kickoffs < KICKOFFS:
                raise
            else:
                return MISSING_FILE
        except FileChanged:
            if attempt == session.source.tries:
                raise
        except ServiceError as fault:
            # The next step asks a busy source again; a file that the source cannot produce does not block the others.
            if fault.service != SERVICE or (isinstance(fault, TransientError) and fault.status != _FAILED):
                raise
            return REFUSED_FILE if isinstance(fault, UnsafeAddress) else MISSING_FILE
        else:
            # Fewer resources than the manifest states: the file was truncated. Reading it again is safe.
            if short or reader.handled >= (reader.state.count or 0):
                break
            short = True
    return ""


def keep(session: Session, worker: UpsertWorker, number: int, resources: Iterable[Resource]) -> Loaded:
    """Store new and changed resources on disk; those identical to the last sync are counted as unchanged."""
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
        # Linked content is fetched as content, not read as a resource.
        targets[each.key] = references.targets(each.value, source)
        body = each.raw or orjson.dumps(each.value)
        place = place_of(each.key, each.value, source)
        spooled.append(Spooled(each.key, place, body, _updated(each.value), each.number))
    session.map.write_references(targets.items())
    session.spool.add(number, spooled, set[Key]().union(*targets.values()))
    return Loaded(counted((each.type, "unchanged") for each in found if each.key in same))


@dataclass
class _Reader:
    """Reads one file; its resources are counted when the complete file is on disk."""

    session: Session
    worker: UpsertWorker
    state: FileState
    number: int
    handled: int = 0
    missing: NotExported | None = None  # what the source does not deliver of it

    def __post_init__(self) -> None:
        self.loaded = Loaded()
        self.bad: list[BadLine] = []
        self.unwanted = Counter[str]()
        self.outcomes: list[Json] = []
        self.patients: set[str] = set()

    def read(self, chunks: Iterable[bytes]) -> None:
        """Every line of the file, from the first one."""
        self.__post_init__()
        self.session.spool.begin(self.number)
        lines = _Counted(split_lines(chunks))
        items = read_resources(lines)
        seen = 0
        while some := list(islice(items, _TOGETHER)):
            self.session.check_time()
            seen += len(some)
            self.bad += [each for each in some if isinstance(each, BadLine)]
            wanted = [each for each in some if isinstance(each, Resource) and self._wanted(each)]
            self.loaded = self.loaded.plus(keep(self.session, self.worker, self.number, wanted))
        self.handled = max(seen, lines.number)

    def _wanted(self, resource: Resource) -> bool:
        """True for a requested type. Others are reported: an export file can't create resources of any type."""
        kind = resource.type
        if kind == "OperationOutcome":
            self.outcomes.append(resource.value)
        elif not _TYPE.fullmatch(kind):
            self.bad.append(BadLine(resource.number, "not a resource type"))
        elif kind not in self.session.job.types or kind not in IMPORTABLE:
            self.unwanted[kind] += 1
        elif (reason := unusable(resource)) or resource.key is None:
            self.bad.append(BadLine(resource.number, reason))
        elif self._is_of_somebody_else(resource.key, resource.value):
            self.unwanted[f"{kind} of other patients"] += 1
        else:
            self.patients |= {resource.key.id} if kind == "Patient" else set()
            return True
        return False

    def _is_of_somebody_else(self, key: Key, value: Json) -> bool:
        """True if the caller named patients and the resource belongs to another one that the source also exported."""
        only = self.session.job.only
        return bool(only) and (owner_of(key, value, self.session.settings.source) or only[0]) not in only

    def end(self) -> None:
        """Count the file once, even if it is downloaded several times."""
        session, state = self.session, self.state
        session.spool.end(self.number)
        with session.lock:
            run = session.run
            current = job_of(run).files[self.number]
            if current.done:
                return
            run = with_loaded(run, self.loaded)
            if (group := job_of(run).group) in run.unread and not job_of(run).newcomers:
                members = run.members.get(group, "") + member_digests(self.patients)
                run = replace(run, members={**run.members, group: members})
            place = f"{state.type} file {state.turn + 1} line"
            run = with_bad_lines(run, ((state.type, f"{place} {each.number}: {each.reason}") for each in self.bad))
            reported, notes = read_outcomes(self.outcomes, job_of(run).types, named=state.type)
            missing = (*reported, *([self.missing] if self.missing is not None else []))
            run = run.lacking(missing).noted(*notes, *self._unwanted())
            session.keep(run.with_job(with_file(job_of(run), replace(state, done=True))))
        show_counts(session, self.loaded, state.count)

    def _unwanted(self) -> Iterator[str]:
        for kind, number in sorted(self.unwanted.items()):
            yield f"{number} x {kind} in a file of {self.state.type}: not asked for, not written"


@dataclass
class _Counted:
    """Passes lines through and counts them."""

    inner: Iterator[Line]
    number: int = 0

    def __iter__(self) -> Iterator[Line]:
        for line in self.inner:
            self.number += 1
            yield line


def _updated(resource: dict[str, object]) -> str:
    """The source's time stamp in sortable form; empty if it can't be parsed."""
    meta = resource.get("meta")
    text = meta.get("lastUpdated") if isinstance(meta, dict) else None
    if not isinstance(text, str) or not is_instant(text):
        return ""
    return instant(text).astimezone(UTC).isoformat(timespec="microseconds")
