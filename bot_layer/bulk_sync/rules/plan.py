"""Which exports a run needs, the order in which its files are loaded, and the time stamps and members after it."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b

from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import NotExported, incomplete_types
from bot_layer.bulk_sync.rules.run_state import NO_GROUP, FileState, Job, Run, SyncState
from bot_layer.bulk_sync.rules.source_identity import level_of
from bot_layer.bulk_sync.rules.time_stamps import export_stamp, instant, next_since, usable_stamps

Places = dict[tuple[str, str, int], ExportFile]


def files_of(files: Iterable[ExportFile], before: Iterable[FileState] = ()) -> tuple[FileState, ...]:
    """The files of a manifest in the order of loading; files processed before an interruption stay done."""
    known = {each.place: each for each in before}
    states = [known.get(place) or FileState(*place, count=each.count) for place, each in places_of(files).items()]
    return tuple(sorted(states, key=lambda each: (each.kind != "output", level_of(each.type))))


def places_of(files: Iterable[ExportFile]) -> Places:
    """A manifest's files by kind, type and position: their addresses may change, their order does not."""
    turns: Counter[tuple[str, str]] = Counter()
    places: Places = {}
    for each in files:
        places[each.kind, each.type, turns[each.kind, each.type]] = each
        turns[each.kind, each.type] += 1
    return places


def plan_jobs(
    level: str,
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
    """The exports for new data: new types and the Group's new patients in full, the rest since the last run.

    The history of a few new patients is searched; types without a search (``by_search``) are exported in full for them.
    If a Group can't be read, its new patients are found in the Patient export, which is always full.
    """
    place = group or NO_GROUP
    stamps = {} if full else usable_stamps(state.since.get(place, {}), now=now)
    if since and not full:
        stamps = dict.fromkeys(types, since)
    if stamps and members is not None and not since:
        before = _split(state.members.get(place, ""))
        newcomers = tuple(each for each in members if member_digests([each]) not in before)
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
    """The run with all other types in full if the Patient export of an unreadable Group includes new patients."""
    new = _split(run.members.get(group, "")) - _split(state.members.get(group, ""))
    if group not in run.unread or not new:
        return run
    return replace(
        run, jobs=tuple(replace(each, since="") if each.group == group and not each.done else each for each in run.jobs)
    )


def filtered_by(state: SyncState, filters: tuple[str, ...]) -> SyncState:
    """The state before a run with these filters: a type whose filter changed counts as new."""
    changed = {each.partition("?")[0] for each in {*filters} ^ {*state.type_filters}}
    since = {
        group: {kind: stamp for kind, stamp in types.items() if kind not in changed}
        for group, types in state.since.items()
    }
    return replace(state, since=since, type_filters=filters)


def still_missing(state: SyncState, run: Run) -> tuple[NotExported, ...]:
    """What the source did not export in the last run, and this one does not export either.

    A run of everything starts with an empty list. A retry, or a run of a part, must not hide what is still missing.
    """
    if state.run is None or (run.jobs and not run.narrow):
        return ()
    exported = {
        kind
        for job in run.jobs
        for kind in job.types
        if not job.newcomers and instant(job.since) <= instant(state.since.get(job.group or NO_GROUP, {}).get(kind, ""))
    }
    return tuple(each for each in state.run.not_exported if each.type not in exported)


def next_stamps(state: SyncState, run: Run) -> dict[str, dict[str, str]]:
    """The time stamps after a run that processed every file.

    The stamp of a type stays if the source reports an incomplete export of it. If a Group has new patients, such a
    type, and one that is no longer synced, lacks their history: its next export is a full one.
    """
    since = {group: dict(types) for group, types in state.since.items()}
    for place, now in run.members.items() if not run.narrow else ():
        if _split(now) - _split(state.members.get(place, "")):
            asked = {kind for job in run.jobs if (job.group or NO_GROUP) == place for kind in job.types}
            asked -= incomplete_types(asked, run.not_exported)
            since[place] = {kind: stamp for kind, stamp in since.get(place, {}).items() if kind in asked}
    for job in run.jobs:
        if not job.newcomers:
            place = job.group or NO_GROUP
            complete = [kind for kind in job.types if kind not in incomplete_types(job.types, run.not_exported)]
            stamp = export_stamp(job.transaction_time, job.kicked_off)
            since[place] = next_since(since.get(place, {}), complete, stamp, since=job.since)
    return since


def next_members(state: SyncState, run: Run) -> dict[str, str]:
    """The patients whose history Medplum has; patients found by a narrow run still count as new."""
    return {**state.members, **(run.members if not run.narrow else {})}


def member_digests(patients: Iterable[str]) -> str:
    """The members of a Group as eight-character digests: Medplum limits a Task to 1 MB, and a practice may have many
    patients."""
    digests = (blake2b(each.encode(), digest_size=6).digest() for each in patients)
    return "".join(b64encode(each).decode() for each in digests)


def _split(text: str) -> set[str]:
    return {text[start : start + 8] for start in range(0, len(text), 8)}
