"""The state of a sync: its time stamps, its Groups' members, and the run with its jobs, files and counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from bot_layer.bulk_sync.rules.export_errors import NotExported, merged
from bot_layer.bulk_sync.rules.time_stamps import instant

NO_GROUP: Final = "*"  # used instead of a Group id if there is no Group

Phase = Literal["export", "finish", "done", "partial", "failed", "cancelled"]
BAD_LINES: Final = 200  # the most lines that are listed; all are counted
MOST_LISTED: Final = 100  # edits in Medplum
COUNTED: Final = ("seen", "created", "updated", "unchanged", "failed")


@dataclass(frozen=True)
class FileState:
    """A file of an export, ``done`` once all of it is on disk; ``turn`` counts the files of one kind and type."""

    kind: str
    type: str
    turn: int
    done: bool = False
    count: int | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Its place in the manifest, which stays the same when its address changes."""
        return self.kind, self.type, self.turn


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
    kicked_off: str = ""  # when, on the source's clock: no time stamp may be later
    transaction_time: str = ""
    requires_token: bool | None = None  # None: the manifest does not say
    files: tuple[FileState, ...] = ()
    counted: bool = False  # duplicates are in the counts
    place: str = ""  # position of the last resource written to Medplum
    done: bool = False
    newcomers: bool = False  # only of some patients, such as the Group's new ones: no time stamp moves
    only: tuple[str, ...] = ()  # the patients whom the caller named
    # What the source refused at the kick-off of this export, or of a larger one that includes it.
    output_format: bool = True
    refused_since: str = ""
    split: bool = False
    last: bool = False  # was refused before any other, so it is retried after them


@dataclass(frozen=True)
class LocalEdit:
    """A resource in Medplum that differs from the source because of an edit, and the names of the edited fields."""

    type: str
    id: str
    fields: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The reference to it in Medplum."""
        return f"{self.type}/{self.id}"


@dataclass(frozen=True)
class EditList:
    """The edits that await a decision: the first ones, and how many ``more`` this run found."""

    listed: tuple[LocalEdit, ...] = ()
    more: int = 0

    def after(self, found: Iterable[LocalEdit], settled: Collection[str]) -> EditList:
        """The list with the newly found edits, and without the resources that now match the source (by reference)."""
        listed = {each.reference: each for each in self.listed if each.reference not in settled}
        more = self.more
        for each in found:
            if each.reference in listed or len(listed) < MOST_LISTED:
                listed[each.reference] = each
            else:
                more += 1
        return EditList(tuple(listed.values()), more)


@dataclass(frozen=True)
class Run:
    """One run, from the first kick-off to the last repair."""

    id: str
    started: float
    phase: Phase = "export"
    full: bool = False
    narrow: bool = False  # since an instant, or only some types: new patients do not get their whole history
    reconcile: bool = False
    overwrite: bool = False  # the source overwrites every edit made in Medplum
    seen_in: str = ""  # the map in which a reconcile records what the source still has
    jobs: tuple[Job, ...] = ()
    members: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()  # Groups whose members are known only after the Patient export
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
    uncopied: Mapping[str, int] = field(default_factory=dict)  # attachments whose links stay, by type and reason
    not_exported: tuple[NotExported, ...] = ()  # what the source reports as missing from its export
    problem: str = ""
    ended: float = 0.0

    @property
    def job(self) -> Job | None:
        """The current job."""
        return next((each for each in self.jobs if not each.done), None)

    def with_job(self, job: Job) -> Run:
        """The run with the current job replaced."""
        return self.with_jobs((job,))

    def with_jobs(self, jobs: tuple[Job, ...]) -> Run:
        """The run with the current job replaced by any number of jobs."""
        place = next(number for number, each in enumerate(self.jobs) if not each.done)
        return replace(self, jobs=(*self.jobs[:place], *jobs, *self.jobs[place + 1 :]))

    def noted(self, *notes: str) -> Run:
        """The run with these findings, without duplicates."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def lacking(self, missing: Iterable[NotExported]) -> Run:
        """The run with what the source did not export."""
        return replace(self, not_exported=merged(self.not_exported, missing))

    @property
    def incomplete(self) -> bool:
        """True if the source or Medplum refused data."""
        return bool(self.not_exported) or any(row.get("failed", 0) for row in self.counts.values())

    @property
    def over(self) -> bool:
        """True if nothing is left to do, with any result."""
        return self.phase in ("done", "partial", "failed", "cancelled")


@dataclass(frozen=True)
class SyncState:
    """The stored state of one source's sync. ``since`` and ``members`` are stored for each Group."""

    since: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)  # of each Group, as ``member_digests`` writes them
    groups: tuple[str, ...] = ()  # the Groups of the last started run, and its types
    types: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    scopes_for: tuple[str, ...] = ()
    scopes_at: float = 0.0  # when the scopes were negotiated
    refused_types: tuple[str, ...] = ()
    type_filters: tuple[str, ...] = ()
    token_endpoint: str = ""
    auth_methods: tuple[str, ...] = ()
    cache_id: str = ""
    failures: str = ""
    writers: tuple[str, ...] = ()  # the logins that write for this sync: writes of others are edits
    run: Run | None = None
    last_success: float = 0.0
    owner: str = ""
    until: float = 0.0

    @property
    def last_sync_time(self) -> str:
        """The oldest of the time stamps: everything up to there is in Medplum. Empty before the first sync.

        Time stamps of Groups and types that are no longer synced are kept, but ignored here.
        """
        stamps = [
            stamp
            for group, types in self.since.items()
            for kind, stamp in types.items()
            if group in (self.groups or self.since) and kind in (self.types or types)
        ]
        return min(stamps, key=instant) if stamps else ""

    @property
    def last_turn(self) -> float:
        """When the last run ended, or the current one began; 0 before the first."""
        return 0.0 if self.run is None else self.run.ended or self.run.started

    def held_by_other(self, owner: str, now: float) -> bool:
        """True while another process has the lease."""
        return bool(self.owner) and self.owner != owner and now < self.until


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


def due_at(state: SyncState, interval_ms: int) -> float:
    """When the next run may begin, in seconds since 1970: 0 if a run was interrupted, or there was none."""
    run = state.run
    if run is not None and not run.over:
        return 0.0
    # A finished run counts as the last success if it exported something; a retry of failures does not delay an export.
    broken = run is not None and run.phase in ("failed", "cancelled")
    ended = max(state.last_success, run.ended if run is not None and broken else 0.0)
    return ended + interval_ms / 1000 if ended else 0.0
