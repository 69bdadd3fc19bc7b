"""One sync, step by step: kick off, poll, load, repair, commit. It may stop anywhere and be taken up anywhere."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

import orjson

from bot_layer.clients.medplum_writer import MedplumWriter
from bot_layer.clients.practice_fusion import LinkExpired, Log, PracticeFusion
from bot_layer.clients.sync_map import Failure, SyncMap
from bot_layer.clients.sync_store import LeaseLost, SyncStore
from bot_layer.core import bulk_export, sync_state
from bot_layer.core.bulk_export import Complete, Export, ExportFile, Failed, Level, Manifest, Refused, Wait
from bot_layer.core.ndjson import Line, Resource, read_resources, split_lines
from bot_layer.core.references import Key
from bot_layer.core.smart import Discovery
from bot_layer.core.source_identity import level_of
from bot_layer.core.sync_settings import SyncSettings
from bot_layer.core.sync_state import FileState, Job, Run, SyncState, add_counts, files_of, plan_jobs, totals
from bot_layer.core.upsert import digest_of
from bot_layer.errors import BotError, ConfigError, PermanentError, TransientError
from bot_layer.sync.attachments import Attachments
from bot_layer.sync.ending import Ending
from bot_layer.sync.files import FileLoader, Step
from bot_layer.sync.loader import Loaded, Loader
from bot_layer.sync.searching import search_lines

SAVE_SECONDS: Final = 10.0
READERS: Final = 8
_BAD_LINES: Final = 200
Progress = Callable[[str, str, int, int | None], None]


class Halted(Exception):
    """The time is over, or somebody asked to stop: what was done is kept, the rest is for the next step."""


@dataclass(frozen=True)
class Options:
    """What one call asks for."""

    full: bool = False
    types: tuple[str, ...] = ()
    since: str = ""
    reconcile: bool = False
    retry_failed: bool = False


@dataclass
class Sync:
    """One source into one Medplum."""

    settings: SyncSettings
    source: PracticeFusion
    medplum: MedplumWriter
    store: SyncStore
    map: SyncMap
    log: Log = lambda _component, _text: None
    progress: Progress = lambda _kind, _name, _done, _total: None
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
    deadline: float | None = None

    def __post_init__(self) -> None:
        self._manifest: Manifest | None = None
        self._fresh = False
        self._alone = False  # True once this process has begun a run, rather than taken up one that broke off
        self._saved_at = self.timer()
        self.medplum.may_write = self.store.check

    # -- The whole

    def run(self, options: Options) -> SyncState:
        """Start a run, or go on with one that was broken off, until it ends, the time is over or somebody stops it."""
        self.log("PFSyncWorker", "Starting Practice Fusion sync...")
        state = self.store.acquire()
        try:
            state = self._begin(state, options)
            while state.run is not None and not state.run.over:
                self._check_time()
                state = self._step(state)
        except Halted:
            # The next step may run on another machine: what failed goes with the Task.
            kept = replace(self.store.state, failures=self._store_failures(self.store.state))
            return self.store.save(kept, release=True)
        except LeaseLost:
            raise
        except BotError as fault:
            self._fail(fault)
            raise
        finally:
            self._let_go()
        return self.store.state

    def _let_go(self) -> None:
        if self.store.state.owner == self.store.owner:
            try:
                self.store.save(self.store.state, release=True)
            except BotError:
                self.log("PFSyncWorker", "The lease could not be given back; it runs out by itself")

    def _fail(self, fault: BotError) -> None:
        run = self.store.state.run
        if run is None or run.over:
            return
        # What may work later is taken up where it broke; what will not is over, and the time stamps stay.
        over = not isinstance(fault, TransientError)
        problem = f"{fault.code}: {fault.message}"
        phase: sync_state.Phase = "failed" if over else run.phase
        self._save(replace(run, problem=problem, phase=phase, ended=self.clock() if over else 0.0))
        self.log("PFSyncWorker", f"Sync failed: {problem}")

    def _begin(self, state: SyncState, options: Options) -> SyncState:
        state = self._same_past(state)
        if state.run is not None and not state.run.over:
            self.log("PFSyncWorker", "Resuming the run that was broken off")
            self._use_scopes(state)
            return self.store.save(replace(state, run=replace(state.run, problem="")))
        if options.retry_failed:
            return self._retry(state)
        said = state.last_sync_time or "never (initial sync)"
        self.log("PFSyncWorker", f"Last sync time: {said}")
        types, state = self._granted(state, options)
        run = Run(
            id=uuid.uuid4().hex,
            started=self.clock(),
            full=options.full or options.reconcile,
            reconcile=options.reconcile,
            refused_types=state.refused_types,
        )
        run = self._planned(run, state, types, options)
        if options.reconcile:
            self._check_reconcile(state)
            self.map.begin_seeing()
        self._alone = True
        self.store.state = replace(state, run=run)
        return self.store.state

    def _same_past(self, state: SyncState) -> SyncState:
        """Empty the file on disk if it belongs to another past than the Task in Medplum."""
        if state.cache_id and self.map.note("cache_id") == state.cache_id:
            return state
        cache_id = uuid.uuid4().hex
        self.map.clear(cache_id)
        self._fresh = bool(state.cache_id)
        self.map.record((), failures=self._stored_failures(state))
        return replace(state, cache_id=cache_id)

    def _granted(self, state: SyncState, options: Options) -> tuple[tuple[str, ...], SyncState]:
        types = options.types or self.settings.types
        if state.scopes and state.scopes_for == types and not self.settings.scopes:
            self._use_scopes(state)
            return tuple(each for each in types if each not in state.refused_types), state
        self.source.settings = replace(self.settings, types=types)
        accepted, refused = self.source.negotiate()
        if refused:
            self.log("PFSmartClient", f"The source does not grant: {', '.join(refused)}")
        discovery = self.source.discover()
        changed = replace(
            state,
            scopes=self.source.granted,
            scopes_for=types,
            refused_types=refused,
            token_endpoint=discovery.token_endpoint,
            auth_methods=discovery.auth_methods,
        )
        return accepted, changed

    def _use_scopes(self, state: SyncState) -> None:
        self.source.granted = self.settings.scopes or state.scopes
        if state.token_endpoint and self.source.discovery is None:
            self.source.discovery = Discovery(state.token_endpoint, state.auth_methods)

    # -- Planning

    def _levels(self) -> tuple[str, ...]:
        """The levels to try in turn. A Group that was asked for is never widened to everybody."""
        if self.settings.level != "auto":
            return (self.settings.level,)
        return ("group", "search") if self.settings.group_ids else ("patient", "system")

    def _planned(self, run: Run, state: SyncState, types: tuple[str, ...], options: Options) -> Run:
        level = self._levels()[0]
        jobs: tuple[Job, ...] = ()
        members: dict[str, tuple[str, ...]] = {}
        grouped = level in ("group", "search")
        for group in self.settings.group_ids if grouped else ("",):
            found = self.source.group_members(group) if group else None
            if found is not None:
                members[group] = found
            elif level == "search":
                raise PermanentError(
                    "The Group can't be read, so that its patients are not known; nobody else's are taken instead.",
                    service="Practice Fusion",
                    path="Group/{id}",
                    code="group-unreadable",
                )
            jobs += plan_jobs(_level(level), group, types, state, members=found, full=run.full, since=options.since)
        return replace(run, jobs=jobs, members=members)

    def _next_level(self, run: Run, job: Job, refused: Refused) -> Run:
        levels = self._levels()
        place = levels.index(job.level) if job.level in levels else len(levels)
        if not refused.unsupported or place + 1 >= len(levels):
            raise PermanentError(
                f"The source refused the export at {job.level} level: {refused.reason}. Set PF_EXPORT_LEVEL, or check "
                "the Group and the app's rights.",
                service="Practice Fusion",
                status=refused.status,
                path=bulk_export.export_path(_export_level(job.level), "{id}"),
                code="export-refused",
            )
        level = levels[place + 1]
        note = f"{job.level} level: {refused.reason}; taking {level} level"
        self.log("PFBulkExport", note)
        if level == "search":
            members = self.source.group_members(job.group)
            if members is None:
                raise PermanentError(
                    "The Group can't be exported nor read.", service="Practice Fusion", code="group-unreadable"
                )
            job = replace(job, patients=members)
        return replace(run.with_job(replace(job, level=level)), notes=(*run.notes, note))

    def _check_reconcile(self, state: SyncState) -> None:
        mine = set(self.settings.group_ids) or {sync_state.WHOLE}
        others = set(state.since) - mine
        if others:
            raise ConfigError(
                "This source's other Groups were synced too: name all of them in PF_GROUP_ID for a reconcile, or their "
                "patients would look deleted.",
                code="reconcile-needs-all-groups",
                missing=["PF_GROUP_ID"],
            )

    # -- Steps

    def _step(self, state: SyncState) -> SyncState:
        run = state.run
        if run is None:
            raise AssertionError("a step belongs to a run")
        job = run.job
        if job is None:
            return self._finish(run)
        if job.level == "search":
            return self._load_searched(run, job)
        if not job.status_url:
            return self._kick_off(run, job)
        if self._manifest is None:
            return self._poll(run, job)
        return self._load_files(run, job, self._manifest)

    def _kick_off(self, run: Run, job: Job) -> SyncState:
        export = Export(
            _export_level(job.level), job.types, job.group, job.since, type_filters=self.settings.type_filters
        )
        answer = self.source.kickoff(export)
        if isinstance(answer, Refused):
            return self._save(self._next_level(run, job, answer))
        job = replace(job, status_url=answer.status_url, kickoffs=job.kickoffs + 1, polls=0, started=self.clock())
        # Saved before the first poll: whoever comes next finds the job instead of starting a second one.
        return self._save(run.with_job(job))

    def _poll(self, run: Run, job: Job) -> SyncState:
        answer = self.source.status(job.status_url, attempt=job.polls + 1)
        if isinstance(answer, Wait):
            if self.clock() - job.started > self.settings.poll_limit_seconds:
                self.source.cancel(job.status_url)
                raise PermanentError(
                    f"Bulk export timed out after {job.polls + 1} polling attempts. Raise PF_POLL_LIMIT_SECONDS or ask "
                    "for fewer resource types.",
                    service="Practice Fusion",
                    path="export status",
                    code="export-timeout",
                )
            shown = f", progress: {answer.progress}" if answer.progress else ""
            self.log("PFBulkExport", f"Export in progress (attempt {job.polls + 1}){shown}")
            self.progress("poll", answer.progress, job.polls + 1, None)
            state = self._keep(run.with_job(replace(job, polls=job.polls + 1)))
            self._wait(answer.seconds)
            return state
        if isinstance(answer, Complete):
            self._manifest = self._whole(answer.manifest)
            outputs = sum(each.kind == "output" for each in self._manifest.files)
            self.log("PFBulkExport", f"Export complete with {outputs} output files")
            files = files_of(self._manifest.files, job.files)
            job = replace(
                job,
                files=files,
                transaction_time=self._manifest.transaction_time,
                requires_token=self._manifest.requires_access_token,
            )
            return self._keep(run.with_job(job))
        return self._after_failure(run, job, answer)

    def _after_failure(self, run: Run, job: Job, answer: Failed) -> SyncState:
        if answer.lost and job.kickoffs < 2:
            self.log("PFBulkExport", "The source lost the export; kicking it off again, once")
            return self._save(run.with_job(_anew(job)))
        if not answer.lost:
            self.source.cancel(job.status_url)
        raise PermanentError(
            f"The export failed: {answer.reason}.",
            service="Practice Fusion",
            status=answer.status,
            path="export status",
            code="export-failed",
            issues=answer.issues,
        )

    def _whole(self, manifest: Manifest) -> Manifest:
        """The manifest with all its pages."""
        files, url = list(manifest.files), manifest.next_url
        seen = {url}
        attempt = 0
        while url:
            answer = self.source.status(url)
            if isinstance(answer, Wait) and attempt < self.source.tries:
                attempt += 1
                self._wait(answer.seconds)
                continue
            if not isinstance(answer, Complete):
                raise TransientError(
                    "A page of the manifest could not be read.", service="Practice Fusion", path="export manifest"
                )
            files += answer.manifest.files
            url = "" if answer.manifest.next_url in seen else answer.manifest.next_url
            seen.add(url)
        return replace(manifest, files=tuple(dict.fromkeys(files)), next_url="")

    # -- Loading

    @contextmanager
    def _loading(self, run: Run) -> Iterator[FileLoader]:
        wanted = self.settings.attachments
        attachments = Attachments(self.source, self.medplum, self.settings.max_attachment_bytes) if wanted else None
        loader = Loader(
            self.medplum,
            self.map,
            self.settings.source,
            conditional=self.settings.upsert == "conditional",
            look_at_all=run.full,
            seeing=run.reconcile,
            attachments=attachments,
            alone=self._alone,
        )
        with ThreadPoolExecutor(self.settings.workers, thread_name_prefix="pf-sync") as pool:
            yield FileLoader(loader, pool, self.settings.workers, halted=self._halted)

    def _load_files(self, run: Run, job: Job, manifest: Manifest) -> SyncState:
        places = _places(manifest)
        with self._loading(run) as files:
            levels: dict[int, list[FileState]] = {}
            for each in job.files:
                if each.kind == "output" and not each.done:
                    levels.setdefault(_turn(each), []).append(each)
            files.loader.prepare(each.type for some in levels.values() for each in some)
            try:
                for _, some in sorted(levels.items()):
                    self._load_level(files, some, places)
            except LinkExpired:
                self._manifest = None
                return self._after_failure(
                    self._current(), _job(self._current()), Failed(410, "links expired", lost=True)
                )
            self._check_time()
            for each in job.files:
                if each.kind == "deleted" and not each.done:
                    self._apply_deleted(each, places[each.kind, each.type, each.turn])
                elif each.kind == "error" and not each.done:
                    self._read_errors(each, places[each.kind, each.type, each.turn])
        done = self._current()
        # Some sources take no second export before the first was deleted.
        self.source.cancel(job.status_url)
        self._manifest = None
        return self._keep(done.with_job(replace(_job(done), done=True)))

    def _load_level(
        self, files: FileLoader, states: list[FileState], places: dict[tuple[str, str, int], ExportFile]
    ) -> None:
        """Several files at once; the first failure is raised when all of them have come to rest."""
        faults: list[BaseException] = []
        with ThreadPoolExecutor(min(READERS, len(states)), thread_name_prefix="pf-read") as readers:
            tasks = [
                readers.submit(self._load_file, files, each, places[each.kind, each.type, each.turn]) for each in states
            ]
        for task in tasks:
            fault = task.exception()
            if fault is not None:
                faults.append(fault)
        # Somebody else's turn, or a lost link, says more than that the time is over.
        for fault in sorted(faults, key=lambda each: isinstance(each, Halted)):
            raise fault

    def _load_file(self, files: FileLoader, state: FileState, file: ExportFile) -> None:
        self.log("PFBulkExport", f"Downloading NDJSON file: {state.type} {state.turn + 1}")
        for attempt in (1, 2):
            try:
                handled = self._read_file(files, state, file)
            except LinkExpired:
                if attempt == 2:
                    raise
                state, file = self._fresh_link(state)
                continue
            if state.count is None or handled >= state.count or attempt == 2:
                break
            # Fewer resources than the manifest promised: something was cut off. To read it again does no harm.
            self.log("PFBulkExport", f"{state.type}: {handled} of {state.count} resources arrived; reading it again")
            state = self._file_done(replace(state, lines=0), done=False)
        if state.count is not None and handled < state.count:
            raise PermanentError(
                f"A file of {state.type} holds {handled} resources, but the manifest says {state.count}.",
                service="Practice Fusion",
                path="export file",
                code="file-incomplete",
            )
        self._file_done(self._state_of(state), done=True)

    def _read_file(self, files: FileLoader, state: FileState, file: ExportFile) -> int:
        """The number of resources and bad lines in the whole file."""
        requires = _job(self._current()).requires_token
        seen = 0
        before = state.lines
        counted = _Counted(split_lines(self.source.chunks(file, requires_token=requires)))
        for step in files.load(counted, type_=state.type, after=before):
            state = self._after_step(state, step)
            seen += totals(step.loaded.counts)["seen"]
        self._check_time()
        self.log("PFBulkExport", f"Parsed {max(seen, counted.lines)} resources from file")
        return max(seen, counted.lines)

    def _fresh_link(self, state: FileState) -> tuple[FileState, ExportFile]:
        self.log("PFBulkExport", "A link expired; fetching the manifest again")
        answer = self.source.status(_job(self._current()).status_url)
        if not isinstance(answer, Complete):
            raise TransientError(
                "The export's links expired, and its manifest is gone too.",
                service="Practice Fusion",
                code="link-expired",
            )
        places = _places(self._whole(answer.manifest))
        file = places.get((state.kind, state.type, state.turn))
        if file is None:
            raise TransientError("The manifest changed.", service="Practice Fusion", code="link-expired")
        return self._state_of(state), file

    def _load_searched(self, run: Run, job: Job) -> SyncState:
        """The stated fallback: every patient's resources by search, patient by patient."""
        if not job.transaction_time:
            job = replace(job, transaction_time=self.source.server_time())
            run = run.with_job(job)
            self._save(run)
        done = {each.turn for each in job.files}
        with self._loading(run) as files:
            for turn, patient in enumerate(job.patients):
                if turn in done:
                    continue
                lines = search_lines(self.source, patient, job.types, job.since)
                state = FileState("output", "Patient", turn)
                for step in files.load(lines, type_="Patient"):
                    self._after_step(state, step, keep_place=False)
                self._check_time()
                current = self._current()
                now = _job(current)
                self._keep(current.with_job(replace(now, files=(*now.files, replace(state, done=True)))))
                self.progress("patients", "", turn + 1, len(job.patients))
        done_run = self._current()
        return self._save(done_run.with_job(replace(_job(done_run), done=True, files=())))

    def _after_step(self, state: FileState, step: Step, *, keep_place: bool = True) -> FileState:
        with self._lock:
            run = self._current()
            loaded = step.loaded
            bad = tuple(f"{state.type} file {state.turn + 1} line {each.number}: {each.reason}" for each in step.bad)
            run = replace(
                run,
                counts=add_counts(run.counts, loaded.counts),
                overwritten=run.overwritten + loaded.overwritten,
                kept=run.kept + loaded.kept,
                bad_lines=(run.bad_lines + bad)[:_BAD_LINES],
            )
            if keep_place:
                state = replace(state, lines=max(state.lines, step.lines))
                run = run.with_job(_with_file(_job(run), state))
            self._keep(run)
        for kind, row in loaded.counts.items():
            self.progress("file", kind, row.get("seen", 0), state.count)
        return state

    def _file_done(self, state: FileState, *, done: bool) -> FileState:
        with self._lock:
            run = self._current()
            state = replace(state, done=done)
            self._keep(run.with_job(_with_file(_job(run), state)))
            row = self._current().counts.get(state.type, {})
        if done:
            numbers = ", ".join(f"{row.get(name, 0)} {name}" for name in ("created", "updated", "failed"))
            self.log("PFSyncWorker", f"{state.type}: {numbers}")
        return state

    def _state_of(self, state: FileState) -> FileState:
        return next(
            each
            for each in _job(self._current()).files
            if (each.kind, each.type, each.turn) == (state.kind, state.type, state.turn)
        )

    # -- Deletions and errors of the export

    def _apply_deleted(self, state: FileState, file: ExportFile) -> None:
        keys: list[Key] = []
        for item in self._items(file):
            keys += [Key(*each) for each in bulk_export.deleted_keys(item)]
        with self._ending() as ending:
            number = ending.delete(list(dict.fromkeys(keys)), self.settings.deletion)
        run = self._current()
        self._keep(replace(run, deleted=run.deleted + number))
        self._file_done(state, done=True)

    def _read_errors(self, state: FileState, file: ExportFile) -> None:
        """The source's own OperationOutcomes: counted by code, as their words may name a person."""
        codes: dict[str, int] = {}
        for item in self._items(file):
            for issue in item.get("issue") or []:
                name = f"{issue.get('severity', 'error')} {issue.get('code', 'unknown')}"
                codes[name] = codes.get(name, 0) + 1
        run = self._current()
        notes = tuple(f"the source reports {number} x {name}" for name, number in sorted(codes.items()))
        self._keep(replace(run, notes=(*run.notes, *notes)))
        self._file_done(state, done=True)

    def _items(self, file: ExportFile) -> Iterator[dict[str, Any]]:
        requires = _job(self._current()).requires_token
        for item in read_resources(split_lines(self.source.chunks(file, requires_token=requires)), bundles=False):
            if isinstance(item, Resource):
                yield item.value

    # -- The end

    @contextmanager
    def _ending(self) -> Iterator[Ending]:
        with self._loading(self._current()) as files:
            yield Ending(self.source, self.medplum, self.map, files.loader, self.settings.source, halted=self._halted)

    def _finish(self, run: Run) -> SyncState:
        run = self._keep_phase(run, "finish")
        state = self.store.state
        with self._ending() as ending:
            if self._fresh:
                ending.find_waiting(self.settings.types)
                self._fresh = False
            loaded = ending.fetch_missing(hydrate=self.settings.hydrate)
            repaired = ending.repair()
            self._check_time()
            deleted = 0
            if run.reconcile:
                types = tuple(dict.fromkeys(each for job in run.jobs for each in job.types))
                missing = ending.missing_at_source(types, most=self.settings.max_delete_share)
                deleted = ending.delete(missing, self.settings.deletion)
        run = self._current()
        run = replace(
            run,
            counts=add_counts(run.counts, loaded.counts),
            repaired=run.repaired + repaired,
            deleted=run.deleted + deleted,
            waiting=self.map.waiting(),
        )
        return self._commit(state, run)

    def _keep_phase(self, run: Run, phase: sync_state.Phase) -> Run:
        run = replace(run, phase=phase)
        self._keep(run)
        return run

    def _commit(self, state: SyncState, run: Run) -> SyncState:
        """Move the time stamps forward: every file was handled, and what failed is kept."""
        since = {group: dict(types) for group, types in state.since.items()}
        members = dict(state.members)
        for job in run.jobs:
            place = job.group or sync_state.WHOLE
            if job.patients and job.level == "search" and not job.since and place in since and not run.full:
                continue  # newcomers alone: the others' stamps are another job's
            since[place] = bulk_export.next_since(since.get(place, {}), job.types, job.transaction_time)
        members |= run.members
        failures = self._store_failures(state)
        # The addresses and places of the export are of no use any more.
        jobs = tuple(replace(job, status_url="", files=(), patients=()) for job in run.jobs)
        ended = replace(run, phase="done", ended=self.clock(), jobs=jobs, members={})
        new = replace(
            state,
            since=since,
            members=members,
            failures=failures,
            run=ended,
            last_success=self.clock(),
        )
        saved = self.store.save(new, release=True)
        self.log("PFSyncWorker", f"Updated sync state: {saved.last_sync_time}")
        self.log("PFSyncWorker", "Sync complete!")
        self.log("PFSyncWorker", f"Stats: {orjson.dumps(totals(run.counts)).decode()}")
        return saved

    # -- Failures, kept for another try

    def _retry(self, state: SyncState) -> SyncState:
        run = Run(id=uuid.uuid4().hex, started=self.clock(), phase="finish", full=True)
        with self._loading(run) as files:
            loaded: Loaded = files.loader.retry(self.map.failures())
        return self._save(replace(run, counts=loaded.counts), state)

    def _store_failures(self, state: SyncState) -> str:
        """What Medplum refused, as a Binary beside the Task, so that it outlives this machine's disk."""
        failures = self.map.failures()
        if not failures:
            return ""
        lines = b"\n".join(
            orjson.dumps(
                {
                    "type": each.key.type,
                    "id": each.key.id,
                    "status": each.status,
                    "reason": each.reason,
                    "resource": orjson.loads(each.resource) if each.resource else None,
                }
            )
            for each in failures
        )
        digest = self.map.note("failures_digest")
        now = digest_of(lines).hex()
        if digest == now and state.failures:
            return state.failures
        stored = self.medplum.store_content("application/x-ndjson", [lines])
        self.map.write_note("failures_digest", now)
        return f"Binary/{stored}"

    def _stored_failures(self, state: SyncState) -> list[Failure]:
        if not state.failures:
            return []
        reply = self.medplum.repeat("GET", f"fhir/R4/{state.failures}", template="Binary/{id}")
        rows = [orjson.loads(line) for line in reply.body.splitlines()] if reply.status == 200 else []
        return [
            Failure(
                Key(each["type"], each["id"]),
                each["status"],
                each["reason"],
                orjson.dumps(each["resource"]) if each["resource"] else b"",
            )
            for each in rows
        ]

    # -- State and time

    @property
    def _lock(self) -> threading.RLock:
        return self.store.lock

    def _current(self) -> Run:
        run = self.store.state.run
        if run is None:
            raise AssertionError("there is a run")
        return run

    def _save(self, run: Run, state: SyncState | None = None) -> SyncState:
        with self._lock:
            self._saved_at = self.timer()
            return self.store.save(replace(state or self.store.state, run=run))

    def _keep(self, run: Run) -> SyncState:
        """Remember, and write it to Medplum now and then."""
        with self._lock:
            self.store.state = replace(self.store.state, run=run)
            if self.timer() - self._saved_at > SAVE_SECONDS:
                return self._save(run)
            return self.store.state

    def _halted(self) -> bool:
        return self.stop.is_set() or (self.deadline is not None and self.timer() >= self.deadline)

    def _check_time(self) -> None:
        if self._halted():
            raise Halted

    def _wait(self, seconds: float) -> None:
        """Wait; or stop now, if the time would be over by then."""
        if self.deadline is not None and self.timer() + seconds >= self.deadline:
            raise Halted
        self.source.wait(seconds)
        self._check_time()

    def preview(self, options: Options) -> dict[str, int]:
        """How many resources of each type a run would read. Nothing is written; no lease is taken."""
        state = self.store.load()
        types, state = self._granted(state, options)
        run = Run(id="preview", started=self.clock(), full=options.full)
        run = self._planned(run, state, types, options)
        numbers: dict[str, int] = {}
        for job in run.jobs:
            if job.level == "search":
                continue
            answer = self.source.kickoff(
                Export(_export_level(job.level), job.types, job.group, job.since, self.settings.type_filters)
            )
            if isinstance(answer, Refused):
                self._next_level(run, replace(job, level="search"), answer)
            else:
                self._count(answer.status_url, numbers)
        return numbers

    def _count(self, status_url: str, numbers: dict[str, int]) -> None:
        try:
            polls = 1
            while isinstance(answer := self.source.status(status_url, attempt=polls), Wait):
                polls += 1
                self._wait(answer.seconds)
            if isinstance(answer, Failed):
                raise TransientError(f"The export failed: {answer.reason}.", service="Practice Fusion")
            for file in self._whole(answer.manifest).files:
                if file.kind == "output":
                    count = file.count
                    if count is None:
                        requires = answer.manifest.requires_access_token
                        count = sum(1 for _ in split_lines(self.source.chunks(file, requires_token=requires)))
                    numbers[file.type] = numbers.get(file.type, 0) + count
        finally:
            self.source.cancel(status_url)

    def cancel(self) -> SyncState:
        """End the run that is under way, here and at the source."""
        state = self.store.acquire()
        run = state.run
        if run is not None and not run.over:
            self._use_scopes(state)
            if run.job is not None and run.job.status_url:
                self.source.cancel(run.job.status_url)
            state = replace(state, run=replace(run, phase="cancelled", ended=self.clock()))
        return self.store.save(state, release=True)


@dataclass
class _Counted:
    """Counts the lines that pass."""

    inner: Iterator[Line]
    lines: int = 0

    def __iter__(self) -> Iterator[Line]:
        for line in self.inner:
            self.lines += 1
            yield line


def _places(manifest: Manifest) -> dict[tuple[str, str, int], ExportFile]:
    """The manifest's files by kind, type and turn: their addresses may change, their order does not."""
    turns: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str, int], ExportFile] = {}
    for file in manifest.files:
        turn = turns.get((file.kind, file.type), 0)
        turns[file.kind, file.type] = turn + 1
        places[file.kind, file.type, turn] = file
    return places


def _job(run: Run) -> Job:
    job = run.job
    if job is None:
        raise AssertionError("there is a job")
    return job


def _with_file(job: Job, state: FileState) -> Job:
    place = (state.kind, state.type, state.turn)
    return replace(
        job, files=tuple(state if (each.kind, each.type, each.turn) == place else each for each in job.files)
    )


def _anew(job: Job) -> Job:
    return replace(job, status_url="", files=(), polls=0)


def _turn(state: FileState) -> int:
    return level_of(state.type)


def _level(level: str) -> Literal["group", "patient", "system", "search"]:
    return cast('Literal["group", "patient", "system", "search"]', level)


def _export_level(level: str) -> Level:
    return cast("Level", level)
