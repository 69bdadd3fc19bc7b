"""Where a sync stands, and how that is written into a FHIR Task: whoever runs next goes on from there.

The Task holds the lease (who works, until when), the time stamps of each type, the Group's members, the run with its
export jobs and the place in each file, the counts and the report. https://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, Literal

from bot_layer.core.bulk_export import ExportFile, Level, instant, next_since
from bot_layer.core.json import Json
from bot_layer.core.local_edits import EditList, read_list
from bot_layer.core.source_identity import ROOT, level_of

TASK_SYSTEM: Final = f"{ROOT}/sync-source"
GROUP_SYSTEM: Final = f"{ROOT}/sync-group"
CODE_SYSTEM: Final = f"{ROOT}/sync"
CODE: Final = "pf-bulk-sync"
WHOLE: Final = "*"  # the place of a Group's id where no Group is used

Phase = Literal["export", "load", "finish", "done", "failed", "cancelled"]
BAD_LINES: Final = 200  # so many are named; all are counted
COUNTED: Final = ("seen", "created", "updated", "unchanged", "failed")


@dataclass(frozen=True)
class FileState:
    """How far a file was handled: so many of its lines."""

    kind: str
    type: str
    turn: int
    lines: int = 0
    done: bool = False
    count: int | None = None


@dataclass(frozen=True)
class Job:
    """One export, or one search by patient (``level`` search)."""

    level: str
    types: tuple[str, ...]
    group: str = ""
    since: str = ""
    patients: tuple[str, ...] = ()
    status_url: str = ""
    kickoffs: int = 0
    polls: int = 0
    started: float = 0.0
    transaction_time: str = ""
    requires_token: bool | None = None  # None: the manifest does not say
    files: tuple[FileState, ...] = ()
    done: bool = False
    newcomers: bool = False  # the history of patients who are new in the Group, and nobody else's


@dataclass(frozen=True)
class Run:
    """One run, from the first kick-off to the last repair."""

    id: str
    started: float
    phase: Phase = "export"
    full: bool = False
    narrow: bool = False  # since a moment, or of some types only: newcomers are not fetched with all of their history
    reconcile: bool = False
    seen_in: str = ""  # the map on disk in which a reconcile notes what the source still has
    jobs: tuple[Job, ...] = ()
    members: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    deleted: int = 0
    repaired: int = 0
    waiting: int = 0
    overwritten: int = 0
    kept: int = 0
    edits: EditList = field(default_factory=EditList)
    refused_types: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bad_lines: tuple[str, ...] = ()
    source_errors: bool = False  # the export named resources that it could not give
    problem: str = ""
    ended: float = 0.0

    @property
    def job(self) -> Job | None:
        """The job whose turn it is."""
        return next((each for each in self.jobs if not each.done), None)

    def with_job(self, job: Job) -> Run:
        """The run with the current job replaced."""
        place = next(number for number, each in enumerate(self.jobs) if not each.done)
        return replace(self, jobs=(*self.jobs[:place], job, *self.jobs[place + 1 :]))

    @property
    def over(self) -> bool:
        """True when nothing is left to do, whatever the end was."""
        return self.phase in ("done", "failed", "cancelled")


@dataclass(frozen=True)
class SyncState:
    """All that one source's sync keeps. ``since`` and ``members`` are kept for each Group."""

    since: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)  # of each Group, as ``roll`` writes them
    scopes: tuple[str, ...] = ()
    scopes_for: tuple[str, ...] = ()
    scopes_at: float = 0.0  # when they were negotiated
    refused_types: tuple[str, ...] = ()
    type_filters: tuple[str, ...] = ()
    token_endpoint: str = ""
    auth_methods: tuple[str, ...] = ()
    cache_id: str = ""
    failures: str = ""
    unsettled: bool = False  # room for content could not be given back yet
    writers: tuple[str, ...] = ()  # who has written for this sync: what others wrote are edits
    run: Run | None = None
    last_success: float = 0.0
    owner: str = ""
    until: float = 0.0

    @property
    def last_sync_time(self) -> str:
        """The oldest of the time stamps: everything up to there is in Medplum. Empty before the first sync."""
        stamps = [each for types in self.since.values() for each in types.values()]
        return min(stamps, key=instant) if stamps else ""

    def held_by_other(self, owner: str, now: float) -> bool:
        """True while somebody else works."""
        return bool(self.owner) and self.owner != owner and now < self.until


@dataclass(frozen=True)
class Part:
    """What one file brought to a run, told by another process than the one that holds the run."""

    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    overwritten: int = 0
    kept: int = 0
    edits: EditList = field(default_factory=EditList)
    settled: tuple[str, ...] = ()
    bad_lines: tuple[str, ...] = ()


def part_of(before: Run, after: Run) -> Part:
    """What came to a run that began with no counts."""
    settled = {each.reference for each in before.edits.listed} - {each.reference for each in after.edits.listed}
    edits = EditList(after.edits.listed, after.edits.more - before.edits.more)
    return Part(after.counts, after.overwritten, after.kept, edits, tuple(sorted(settled)), after.bad_lines)


def add_part(run: Run, part: Part) -> Run:
    """The run with what a file brought."""
    edits = run.edits.after(part.edits.listed, part.settled)
    return replace(
        run,
        counts=add_counts(run.counts, part.counts),
        overwritten=run.overwritten + part.overwritten,
        kept=run.kept + part.kept,
        edits=replace(edits, more=edits.more + part.edits.more),
        bad_lines=(run.bad_lines + part.bad_lines)[:BAD_LINES],
    )


def read_part(document: Mapping[str, Any]) -> Part:
    """A part that was written as JSON."""
    return Part(**_tupled(document, ("settled", "bad_lines")) | {"edits": read_list(document["edits"])})


def add_counts(
    counts: Mapping[str, Mapping[str, int]], more: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """The sum of two tables of counts."""
    total = {kind: dict(each) for kind, each in counts.items()}
    for kind, each in more.items():
        row = total.setdefault(kind, dict.fromkeys(COUNTED, 0))
        for name, number in each.items():
            row[name] = row.get(name, 0) + number
    return total


def totals(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts of all types together."""
    return {name: sum(each.get(name, 0) for each in counts.values()) for name in COUNTED}


def files_of(files: Iterable[ExportFile], before: Iterable[FileState] = ()) -> tuple[FileState, ...]:
    """The files of a manifest in the order of loading; what was handled before a break stays handled."""
    known = {(each.kind, each.type, each.turn): each for each in before}
    turns: dict[tuple[str, str], int] = {}
    states = []
    for each in files:
        place = (each.kind, each.type)
        turn = turns.get(place, 0)
        turns[place] = turn + 1
        states.append(known.get((*place, turn)) or FileState(each.kind, each.type, turn, count=each.count))
    return tuple(sorted(states, key=lambda each: (each.kind != "output", level_of(each.type))))


def plan_jobs(
    level: Level | Literal["search"],
    group: str,
    types: Iterable[str],
    state: SyncState,
    *,
    members: tuple[str, ...] | None = None,
    full: bool = False,
    since: str = "",
    few: int = 25,
    by_search: Callable[[str], bool] = lambda _kind: True,
) -> tuple[Job, ...]:
    """The exports that bring what is new: new types and the Group's newcomers in full, the rest since last time.

    The history of a few newcomers is searched; what no search brings (``by_search``) is exported in full for them.
    """
    place = group or WHOLE
    stamps = {} if full else dict(state.since.get(place, {}))
    if since and not full:
        stamps = dict.fromkeys(types, since)
    if stamps and members is not None and not since:
        before = _called(state.members.get(place, ""))
        newcomers = tuple(each for each in members if roll([each]) not in before)
        if len(newcomers) > few:
            stamps = {}
        elif newcomers:
            stamps = {kind: stamp for kind, stamp in stamps.items() if by_search(kind)}
    else:
        newcomers = ()
    by_since: dict[str, list[str]] = {}
    for each in types:
        by_since.setdefault(stamps.get(each, ""), []).append(each)
    everyone = members or () if level == "search" else ()
    jobs = [
        Job(level, tuple(some), group, stamp, patients=everyone)
        for stamp, some in sorted(by_since.items(), key=lambda pair: pair[0])
    ]
    if newcomers and stamps:
        old = tuple(each for each in types if stamps.get(each))
        jobs.append(Job("search", old, group, "", patients=newcomers, newcomers=True))
    return tuple(jobs)


def filtered_by(state: SyncState, filters: tuple[str, ...]) -> SyncState:
    """The state before a run with these filters: a type of which they let through something else is new again."""
    changed = {each.partition("?")[0] for each in {*filters} ^ {*state.type_filters}}
    since = {
        group: {kind: stamp for kind, stamp in types.items() if kind not in changed}
        for group, types in state.since.items()
    }
    return replace(state, since=since, type_filters=filters)


def next_stamps(state: SyncState, run: Run) -> dict[str, dict[str, str]]:
    """The time stamps after a run that handled every file.

    Where patients are new in a Group, a type that is not synced any more lacks their history: should it ever be synced
    again, then in full.
    """
    since = {group: dict(types) for group, types in state.since.items()}
    for place, now in run.members.items() if not run.narrow else ():
        if _called(now) - _called(state.members.get(place, "")):
            asked = {kind for job in run.jobs if (job.group or WHOLE) == place for kind in job.types}
            since[place] = {kind: stamp for kind, stamp in since.get(place, {}).items() if kind in asked}
    for job in run.jobs:
        if not job.newcomers:
            place = job.group or WHOLE
            since[place] = next_since(since.get(place, {}), job.types, job.transaction_time, since=job.since)
    return since


def next_members(state: SyncState, run: Run) -> dict[str, str]:
    """Whose history Medplum has: those whom a narrow run found stay newcomers."""
    return {**state.members, **(run.members if not run.narrow else {})}


def roll(patients: Iterable[str]) -> str:
    """Who is in a Group, in eight letters each: Medplum takes a Task of 1 MB, and a practice may have many patients."""
    digests = (blake2b(each.encode(), digest_size=6).digest() for each in patients)
    return "".join(b64encode(each).decode() for each in digests)


def _called(text: str) -> set[str]:
    return {text[start : start + 8] for start in range(0, len(text), 8)}


# -- Into a Task and out of it


def to_task(state: SyncState, source: str, *, task: Json | None = None) -> Json:
    """The Task that holds the state; other fields of the stored one are kept."""
    run = state.run
    groups = sorted({*state.since, *(each.group or WHOLE for each in (run.jobs if run else ()))})
    identifiers: list[Json] = [{"system": TASK_SYSTEM, "value": source}]
    identifiers += [{"system": GROUP_SYSTEM, "value": f"{source}/Group/{each}"} for each in groups if each != WHOLE]
    parameters: list[Json] = []
    if state.last_sync_time:
        parameters.append({"name": "lastSyncTime", "valueDateTime": state.last_sync_time})
    for group, types in sorted(state.since.items()):
        parts: list[Json] = [{"name": "id", "valueString": group}]
        parts += [{"name": kind, "valueDateTime": stamp} for kind, stamp in sorted(types.items())]
        parameters.append({"name": "group", "part": parts})
    parameters.append({"name": "state", "valueString": json.dumps(asdict(state), separators=(",", ":"))})
    made: Json = {
        **(task or {"resourceType": "Task"}),
        "identifier": identifiers,
        "status": _status(run),
        "intent": "order",
        "code": {"coding": [{"system": CODE_SYSTEM, "code": CODE}], "text": "Practice Fusion bulk sync"},
        "description": describe(run),
        "contained": [{"resourceType": "Parameters", "id": "state", "parameter": parameters}],
        "input": [{"type": {"text": "state"}, "valueReference": {"reference": "#state"}}],
    }
    outputs = report(run) if run else []
    if state.failures:
        outputs.append({"type": {"text": "failed-resources"}, "valueReference": {"reference": state.failures}})
    if run:
        made["executionPeriod"] = {"start": _written(run.started)} | ({"end": _written(run.ended)} if run.ended else {})
    made.pop("output", None)
    return made | ({"output": outputs} if outputs else {})


def from_task(task: Json | None) -> SyncState:
    """The state that a Task holds; without one, the state before the first sync."""
    for contained in (task or {}).get("contained") or []:
        for parameter in contained.get("parameter") or []:
            if parameter.get("name") == "state":
                return _state(json.loads(parameter["valueString"]))
    return SyncState()


def describe(run: Run | None) -> str:
    """One sentence on a run: no names, only counts."""
    if run is None:
        return "No sync yet."
    total = totals(run.counts)
    numbers = ", ".join(f"{total[name]} {name}" for name in COUNTED)
    jobs = f"export {sum(each.done for each in run.jobs)} of {len(run.jobs)} done"
    return f"{run.phase}: {numbers}; {jobs}" + (f"; {run.problem}" if run.problem else "")


def report(run: Run) -> list[Json]:
    """The outputs of the Task: counts by type, and what a person must know."""
    outputs: list[Json] = []
    for kind, row in sorted(run.counts.items()):
        text = ", ".join(f"{row.get(name, 0)} {name}" for name in COUNTED)
        outputs.append({"type": {"text": kind}, "valueString": text})
    for name in ("deleted", "repaired", "waiting", "overwritten", "kept"):
        number = getattr(run, name)
        if number:
            outputs.append({"type": {"text": name}, "valueInteger": number})
    for name, texts in (("refused-type", run.refused_types), ("note", run.notes), ("bad-line", run.bad_lines)):
        outputs += [{"type": {"text": name}, "valueString": each} for each in texts]
    for edit in run.edits.listed:
        text = f"{edit.reference}: {', '.join(edit.fields)}"
        outputs.append({"type": {"text": "edited"}, "valueString": text})
    if run.edits.more:
        outputs.append({"type": {"text": "edited-more"}, "valueInteger": run.edits.more})
    if run.problem:
        outputs.append({"type": {"text": "problem"}, "valueString": run.problem})
    return outputs


def health(state: SyncState, *, enabled: bool, interval_ms: int, now: float) -> Json:
    """The health record: is it on, does it work, when did it last run."""
    run = state.run
    running = run is not None and not run.over and now < state.until
    success = run is not None and run.phase == "done"
    patience = 2 * interval_ms / 1000
    late = state.last_success > 0 and now - state.last_success > patience
    # Between two steps of the bot nobody holds the lease, and nothing is wrong.
    paused = run is not None and not run.over and not run.problem and now - run.started <= patience
    return {
        "enabled": enabled,
        "healthy": not enabled or (not late and (success or running or paused)),
        "lastRun": _written(run.started) if run else None,
        "lastRunSuccess": success if run and run.over else None,
        "isRunning": running,
        "intervalMs": interval_ms,
    }


def _status(run: Run | None) -> str:
    if run is None:
        return "requested"
    ends: dict[str, str] = {"done": "completed", "failed": "failed", "cancelled": "cancelled"}
    return ends.get(run.phase, "in-progress")


def _written(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _state(document: Mapping[str, Any]) -> SyncState:
    run = document.get("run")
    return SyncState(
        **_tupled(document, ("scopes", "scopes_for", "refused_types", "type_filters", "auth_methods", "writers"))
        | {
            "members": _rolls(document),
            "run": _run(run) if run else None,
        }
    )


def _run(document: Mapping[str, Any]) -> Run:
    return Run(
        **_tupled(document, ("refused_types", "notes", "bad_lines"))
        | {
            "members": _rolls(document),
            "jobs": tuple(_job(each) for each in document["jobs"]),
            "edits": read_list(document.get("edits", {})),
        }
    )


def _rolls(document: Mapping[str, Any]) -> dict[str, str]:
    # An earlier version wrote the ids themselves.
    return {group: each if isinstance(each, str) else roll(each) for group, each in document["members"].items()}


def _job(document: Mapping[str, Any]) -> Job:
    return Job(
        **_tupled(document, ("types", "patients")) | {"files": tuple(FileState(**each) for each in document["files"])}
    )


def _tupled(document: Mapping[str, Any], names: Iterable[str]) -> Json:
    return dict(document) | {name: tuple(document[name]) for name in names if name in document}
