"""Export jobs: the request, the resulting files, and how long the job still runs."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import orjson

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.big_files import BIG_UPDATED
from medplum_sandbox.practice_fusion.rendering import Lines, cut
from medplum_sandbox.practice_fusion.search import Query
from medplum_sandbox.practice_fusion.source import Deletion, Entry, Source
from medplum_sandbox.practice_fusion.switches import Level, Switches

DELETED = "deleted"
OUTCOMES = "outcome"


@dataclass(frozen=True)
class Request:
    """A kick-off request in plain values."""

    level: Level
    url: str
    group: str | None = None
    types: tuple[str, ...] = ()
    since: datetime | None = None
    filters: tuple[Query, ...] = ()
    patients: frozenset[str] | None = None
    partial: bool = False


class Body(Protocol):
    """A file's content: known size, known number of lines, readable from any byte."""

    size: int
    count: int

    def read(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from ``start`` on, in pieces."""
        ...


@dataclass
class Job:
    """One export. ``files`` is keyed by type (or ``deleted``, ``outcome``) and number."""

    request: Request
    transaction_time: datetime
    started: float
    polls_left: int
    transients_left: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    files: dict[tuple[str, int], Body] = field(default_factory=dict)
    failed: bool = False

    def named(self, *, special: str | None = None) -> list[tuple[str, int]]:
        """The keys of the output files; or of those of ``deleted`` or ``outcome``."""
        return [key for key in self.files if (key[0] == special if special else key[0] not in {DELETED, OUTCOMES})]


def make_files(source: Source, switches: Switches, request: Request) -> dict[tuple[str, int], Body]:
    """The files of an export of this moment."""
    since = request.since if "_since" in switches.honors else None
    with source.unchanged():
        belongs = membership(source, request)
        members = source.groups.get(request.group or "", {}) if switches.since_brings_new_members else {}
        joined = dict(members)
        snapshot = source.snapshot(request.types, belongs)
        deletions = source.deleted(request.types, belongs) if switches.deleted and since is not None else []
    files: dict[tuple[str, int], Body] = {}
    for kind, entries in snapshot.items():
        if kind in source.big:
            if since is None or since < BIG_UPDATED:
                files[(kind, 1)] = source.big[kind]
            continue
        kept = [entry for entry in entries if _is_new(entry, since, joined) and _fits(entry, request.filters, switches)]
        files.update(_parts(kind, [entry.line for entry in kept], switches))
    newly_deleted = (each for each in deletions if since is None or each.at > since)
    files.update(_parts(DELETED, list(_bundles(newly_deleted)), switches))
    files.update(_parts(OUTCOMES, [_outcome(severity) for severity in switches.outcomes], switches))
    return files


def membership(source: Source, request: Request) -> Callable[[str | None], bool]:
    """Whether a resource of this patient (None: of no patient) belongs in the export."""
    wanted = request.patients
    if request.level == "Group" and request.group is not None:
        members = frozenset(source.groups[request.group])
        wanted = members if wanted is None else wanted & members
    if wanted is None:
        return lambda _patient: True
    chosen = wanted
    return lambda patient: patient is None or patient in chosen


def _is_new(entry: Entry, since: datetime | None, joined: dict[str, datetime]) -> bool:
    if since is None or entry.updated > since:
        return True
    return entry.patient in joined and joined[entry.patient] > since


def _fits(entry: Entry, filters: Sequence[Query], switches: Switches) -> bool:
    """Filters of one type are alternatives; a type without a filter is not filtered."""
    if "_typeFilter" not in switches.honors:
        return True
    own = [query for query in filters if query.type == entry.type]
    return not own or any(query.matches(entry) for query in own)


def _parts(kind: str, lines: list[bytes], switches: Switches) -> Iterator[tuple[tuple[str, int], Body]]:
    size = 1 if switches.shape == "pretty" else switches.part_size
    for number, part in enumerate(cut(lines, size), start=1):
        yield (kind, number), Lines(part, shape=switches.shape, text=switches.text)


def _bundles(deletions: Iterable[Deletion]) -> Iterator[bytes]:
    """Transaction Bundles, each with up to two entries: one line may name more than one deletion."""
    rest = iter(deletions)
    while pair := list(itertools.islice(rest, 2)):
        entries = [{"request": {"method": "DELETE", "url": f"{item.type}/{item.id}"}} for item in pair]
        yield orjson.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def _outcome(severity: str) -> bytes:
    issue: Json = {"severity": severity, "code": "processing", "diagnostics": "Some resources could not be exported."}
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
