"""Downloads the files of an export, each until it is complete: resources to disk, deletions and errors at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from itertools import islice
from typing import Final

import orjson

from bot_layer.bulk_sync.deletions import delete
from bot_layer.bulk_sync.polling import KICKOFFS, with_new_link
from bot_layer.bulk_sync.progress import Loaded, counted, with_bad_lines, with_loaded
from bot_layer.bulk_sync.rules import references
from bot_layer.bulk_sync.rules.bulk_export import ExportFile, deletions
from bot_layer.bulk_sync.rules.export_errors import (
    ANY_TYPE,
    MISSING_FILE,
    REFUSED_FILE,
    SHORT_FILE,
    UNREADABLE_DELETIONS,
    NotExported,
    merged,
    read_outcomes,
    unreadable,
)
from bot_layer.bulk_sync.rules.importable_types import IMPORTABLE
from bot_layer.bulk_sync.rules.ndjson import BadLine, Line, Resource, read_resources, split_lines, unusable
from bot_layer.bulk_sync.rules.plan import member_digests
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import FileState, Run
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO
from bot_layer.bulk_sync.rules.time_stamps import instant, is_instant
from bot_layer.bulk_sync.rules.write_order import owner_of, place_of
from bot_layer.bulk_sync.session import Halted, Session
from bot_layer.bulk_sync.source.files import FileChanged, LinkExpired
from bot_layer.bulk_sync.source.hosts import UnsafeAddress, shown
from bot_layer.bulk_sync.state.spool import Spooled
from bot_layer.bulk_sync.state.task_store import LeaseLost
from bot_layer.bulk_sync.upsert_worker import UpsertWorker
from bot_layer.errors import BotError, ServiceError, TransientError
from bot_layer.fhir.json import Json

_READERS: Final = 8
_TOGETHER: Final = 500  # lines in one transaction
_FAILED: Final = 500
_TYPE: Final = re.compile(r"[A-Za-z]{1,64}")


def read_file(session: Session, state: FileState, file: ExportFile, read: Callable[[Iterator[bytes]], int]) -> str:
    """Read a file, again if it changed, expired or was truncated. Returns why it cannot be read, or an empty text.

    ``read`` gets the bytes from the first one, and returns how many resources it found. LinkExpired if another export
    may help.
    """
    expired = short = False
    for attempt in range(1, session.source.tries + 1):
        try:
            found = read(session.source.files.chunks(file, requires_token=session.job.requires_token))
        except LinkExpired:
            if not expired:
                expired, file = True, with_new_link(session, state)
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
            if short or found >= (state.count or 0):
                break
            short = True
    return ""


# -- Deletions and errors


def apply_deleted(session: Session, state: FileState, file: ExportFile) -> None:
    """Delete or mark in Medplum what the source deleted. A deletion that cannot be read is reported."""
    lines: list[Json | None] = []
    reason = read_file(session, state, file, _reader_of(lines, bundles=False))
    found = [deletions(line, session.settings.source) for line in (lines if not reason else ())]
    # The sync imported nothing of other types, and Medplum may not support them.
    imported = {*session.job.types, *session.settings.types, *POINTED_TO}
    keys = dict.fromkeys(each for one in found for each in one if each is not None and each.type in imported)
    number = delete(session, list(keys))
    place = f"deletions file {state.turn + 1} line"
    bad = [("Bundle", f"{place} {line}: no deletion") for line, one in enumerate(found, 1) if None in one]
    missing = unreadable(UNREADABLE_DELETIONS) if reason else ()

    def ended(run: Run) -> Run:
        return replace(with_bad_lines(run, bad).lacking(missing), deleted=run.deleted + number)

    session.end_file(state, ended)


def read_errors(session: Session, state: FileState, file: ExportFile) -> None:
    """Record in the run what the source reports as not exported; an error file never stops the run."""
    lines: list[Json | None] = []
    try:
        reason = read_file(session, state, file, _reader_of(lines, bundles=True))
    except LeaseLost:
        raise
    except BotError as fault:
        reason = fault.code
    if reason:
        session.log("PFBulkExport", f"An error file cannot be read ({reason})")
    outcomes = [each for each in lines if each is not None]
    missing, notes = read_outcomes(outcomes, session.job.types, named=file.type)
    is_whole = not reason and len(outcomes) == len(lines) >= (file.count or 0)
    found = missing if is_whole else merged(missing, unreadable())
    for each in found:
        session.log("PFBulkExport", f"Not exported by the source: {each.type}: {each.count} x {each.reason}")
    session.end_file(state, lambda run: run.lacking(found).noted(*notes))


def _reader_of(lines: list[Json | None], *, bundles: bool) -> Callable[[Iterator[bytes]], int]:
    """A reader that fills the list with the resources of a file, None for a line that is not a resource."""

    def read(chunks: Iterator[bytes]) -> int:
        lines.clear()
        for item in read_resources(split_lines(chunks), bundles=bundles):
            lines.append(item.value if isinstance(item, Resource) else None)
        return len(lines)

    return read


# -- Resources


def download_files(session: Session, worker: UpsertWorker, files: Iterable[tuple[int, FileState, ExportFile]]) -> None:
    """Download these files, with their numbers in the spool; the first failure is raised after all have ended."""
    # The state may not include a file on disk yet: then the file is read again, so that it is counted.
    on_disk = session.spool.whole()
    left = [each for each in files if not each[1].done or each[0] not in on_disk]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="pf-read") as readers:
        tasks = [readers.submit(_download, session, worker, *each) for each in left]
    faults = [fault for task in tasks if (fault := task.exception()) is not None]
    # An expired link or a lost lease is more important than the end of the time limit.
    for fault in sorted(faults, key=lambda each: isinstance(each, Halted)):
        raise fault


def _download(session: Session, worker: UpsertWorker, number: int, state: FileState, file: ExportFile) -> None:
    """Download a complete file, or report what the source does not deliver, without blocking the other files."""
    session.log("PFBulkExport", f"Downloading NDJSON file: {shown(file.url)}")
    content = _Content(session, worker, number)
    reason = read_file(session, state, file, content.read)
    missing = max((state.count or 0) - content.number, 1 if reason else 0)
    not_exported: tuple[NotExported, ...] = ()
    if missing:
        not_exported = (NotExported(state.type or ANY_TYPE, missing, reason or SHORT_FILE),)
        session.log("PFBulkExport", f"A file of {state.type} is incomplete: {reason or SHORT_FILE}")
    session.log("PFBulkExport", f"Parsed {content.number} resources from file")
    session.spool.end(number)
    session.end_file(state, lambda run: content.added_to(run, state, not_exported))
    session.show(content.loaded.counts, state.count)


class _Content:
    """The content of one file: what is on disk, and what is only reported."""

    def __init__(self, session: Session, worker: UpsertWorker, file: int) -> None:
        self.session, self.worker, self.file = session, worker, file
        self.clear()

    def clear(self) -> None:
        """Forget the content of an earlier, incomplete download."""
        self.number = 0
        self.loaded = Loaded()
        self.bad: list[BadLine] = []
        self.unwanted = Counter[str]()
        self.outcomes: list[Json] = []
        self.patients: set[str] = set()

    def read(self, chunks: Iterator[bytes]) -> int:
        """Read every line of the file from the first one; returns the number of resources, or of lines if larger."""
        self.clear()
        self.session.spool.begin(self.file)
        lines = found = 0

        def counted_lines() -> Iterator[Line]:
            nonlocal lines
            for line in split_lines(chunks):
                lines += 1
                yield line

        items = read_resources(counted_lines())
        while some := list(islice(items, _TOGETHER)):
            self.session.check_time()
            found += len(some)
            self.bad += [each for each in some if isinstance(each, BadLine)]
            wanted = [each for each in some if isinstance(each, Resource) and self._is_wanted(each)]
            self.loaded = self.loaded.plus(store_on_disk(self.session, self.worker, self.file, wanted))
        # A manifest may state the number of lines of resources that are formatted over many lines.
        self.number = max(found, lines)
        return self.number

    def _is_wanted(self, resource: Resource) -> bool:
        """True for a requested type. Others are reported: an export file can't create resources of any type."""
        kind, job, source = resource.type, self.session.job, self.session.settings.source
        if kind == "OperationOutcome":
            self.outcomes.append(resource.value)
        elif not _TYPE.fullmatch(kind):
            self.bad.append(BadLine(resource.number, "not a resource type"))
        elif kind not in job.types or kind not in IMPORTABLE:
            self.unwanted[kind] += 1
        elif (reason := unusable(resource)) or resource.key is None:
            self.bad.append(BadLine(resource.number, reason))
        elif job.only and (owner_of(resource.key, resource.value, source) or job.only[0]) not in job.only:
            # The caller named patients. Resources of no patient may be exported with theirs.
            self.unwanted[f"{kind} of other patients"] += 1
        else:
            self.patients |= {resource.key.id} if kind == "Patient" else set()
            return True
        return False

    def added_to(self, run: Run, file: FileState, missing: tuple[NotExported, ...]) -> Run:
        """The run with this file counted, and with what is missing in it."""
        run, job = with_loaded(run, self.loaded), self.session.job
        if job.group in run.unread and not job.newcomers:
            members = run.members.get(job.group, "") + member_digests(self.patients)
            run = replace(run, members={**run.members, job.group: members})
        place = f"{file.type} file {file.turn + 1} line"
        run = with_bad_lines(run, ((file.type, f"{place} {each.number}: {each.reason}") for each in self.bad))
        reported, notes = read_outcomes(self.outcomes, job.types, named=file.type)
        unwanted = (
            f"{number} x {kind} in a file of {file.type}: not asked for, not written"
            for kind, number in sorted(self.unwanted.items())
        )
        return run.lacking((*reported, *missing)).noted(*notes, *unwanted)


def store_on_disk(session: Session, worker: UpsertWorker, file: int, resources: Iterable[Resource]) -> Loaded:
    """Store new and changed resources on disk; those identical to the last sync are counted as unchanged."""
    found = [(each.key, each) for each in resources if each.key is not None]
    if session.current.reconcile:
        session.map.write_seen({key for key, _ in found})
    same = worker.unchanged(each for _, each in found)
    source = session.settings.source
    # Linked content is fetched as content, not read as a resource.
    targets = {key: references.targets(each.value, source) for key, each in found if key not in same}
    session.map.write_references(targets.items())
    spooled = [
        Spooled(
            key,
            place_of(key, each.value, source),
            each.raw or orjson.dumps(each.value),
            _updated(each.value),
            each.number,
        )
        for key, each in found
        if key not in same
    ]
    session.spool.add(file, spooled, set[Key]().union(*targets.values()))
    return Loaded(counted((key.type, "unchanged") for key, _ in found if key in same))


def _updated(resource: Json) -> str:
    """The source's time stamp in sortable form; empty if it can't be parsed."""
    meta = resource.get("meta")
    text = meta.get("lastUpdated") if isinstance(meta, dict) else None
    if not isinstance(text, str) or not is_instant(text):
        return ""
    return instant(text).astimezone(UTC).isoformat(timespec="microseconds")
