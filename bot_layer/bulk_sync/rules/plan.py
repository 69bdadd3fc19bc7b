"""Which exports a run needs, in which order its files are loaded, and what is known after it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import Literal

from bot_layer.bulk_sync.rules.bulk_export import ExportFile, Level
from bot_layer.bulk_sync.rules.export_errors import incomplete_types
from bot_layer.bulk_sync.rules.run_state import WHOLE, FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.source_identity import level_of
from bot_layer.bulk_sync.rules.time_stamps import export_stamp, next_since, usable_stamps


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
    now: float = float("inf"),
    by_search: Callable[[str], bool] = lambda _kind: True,
) -> tuple[Job, ...]:
    """The exports that bring what is new: new types and the Group's newcomers in full, the rest since last time.

    The history of a few newcomers is searched; what no search brings (``by_search``) is exported in full for them.
    Who is new in a Group that can't be read is seen in the patients, who are always exported in full.
    """
    place = group or WHOLE
    stamps = {} if full else usable_stamps(state.since.get(place, {}), now=now)
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
    if group and members is None and not since:
        stamps = {kind: stamp for kind, stamp in stamps.items() if kind != "Patient"}
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


def after_patients(state: SyncState, run: Run, group: str) -> Run:
    """The run with the rest in full where the patients of a Group that can't be read include new ones."""
    new = _called(run.members.get(group, "")) - _called(state.members.get(group, ""))
    if group not in run.unread or not new:
        return run
    return replace(
        run, jobs=tuple(replace(each, since="") if each.group == group and not each.done else each for each in run.jobs)
    )


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

    The stamp of a type stays where the source reports that it did not export something of it. Where patients are new
    in a Group, such a type, and one that is not synced any more, lacks their history: it is exported in full next.
    """
    since = {group: dict(types) for group, types in state.since.items()}
    for place, now in run.members.items() if not run.narrow else ():
        if _called(now) - _called(state.members.get(place, "")):
            asked = {kind for job in run.jobs if (job.group or WHOLE) == place for kind in job.types}
            asked -= incomplete_types(asked, run.not_exported)
            since[place] = {kind: stamp for kind, stamp in since.get(place, {}).items() if kind in asked}
    for job in run.jobs:
        if not job.newcomers:
            place = job.group or WHOLE
            complete = [kind for kind in job.types if kind not in incomplete_types(job.types, run.not_exported)]
            stamp = export_stamp(job.transaction_time, job.kicked_off)
            since[place] = next_since(since.get(place, {}), complete, stamp, since=job.since)
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
