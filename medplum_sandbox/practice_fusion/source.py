"""The data of a source: resources with their history of changes, deletions and group members. Time is an argument."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.big_files import BigFile

PLACEHOLDER_BASE: Final = "https://source.invalid/fhir/r4"
_PATIENT_FIELDS: Final = ("subject", "patient", "beneficiary")

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource as it is sent, with what an export asks about it."""

    type: str
    id: str
    line: bytes
    updated: datetime
    version: int
    patient: str | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """The record of a deleted resource."""

    type: str
    id: str
    at: datetime
    patient: str | None


class Source:
    """All resources of one practice. Safe to change while a look-alike serves it: an export sees one point in time."""

    def __init__(self) -> None:
        self.base = PLACEHOLDER_BASE
        self.entries: dict[str, dict[str, Entry]] = {}
        self.deletions: dict[Key, Deletion] = {}
        self.groups: dict[str, dict[str, datetime]] = {}
        self.big: dict[str, BigFile] = {}
        self._lock = threading.RLock()

    def add(self, resource: Mapping[str, Any], *, at: datetime) -> Json:
        """The resource as stored: with version 1 (or the next one, if the id is there) and ``lastUpdated``."""
        with self._lock:
            key = (resource["resourceType"], resource["id"])
            old = self.entries.get(key[0], {}).get(key[1])
            self.deletions.pop(key, None)
            return self._store({**resource}, at, 1 if old is None else old.version + 1)

    def change(
        self, kind: str, id_: str, fields: Mapping[str, Any] | Callable[[Json], Mapping[str, Any]], *, at: datetime
    ) -> Json:
        """The resource with ``fields`` set (None removes one) and a new version. A function makes them."""
        with self._lock:
            old = self.entries[kind][id_]
            resource: Json = orjson.loads(old.line)
            resource.update(fields(resource) if callable(fields) else fields)
            kept = {name: value for name, value in resource.items() if value is not None}
            return self._store(kept, at, old.version + 1)

    def delete(self, kind: str, id_: str, *, at: datetime) -> None:
        """Removes the resource; exports with ``_since`` can then name it as deleted."""
        with self._lock:
            entry = self.entries[kind].pop(id_)
            self.deletions[(kind, id_)] = Deletion(kind, id_, at, entry.patient)

    def add_member(self, patient: str, *, at: datetime, group: str | None = None) -> None:
        """Puts a patient in a group (the first one, if none is named)."""
        with self._lock:
            self.groups[group or self.group_id].setdefault(patient, at)

    def remove_member(self, patient: str, *, group: str | None = None) -> None:
        """Takes a patient out of a group; the patient's resources stay."""
        with self._lock:
            del self.groups[group or self.group_id][patient]

    def add_big(self, kind: str, size_bytes: int) -> BigFile:
        """The file that exports of ``kind`` return instead of its resources: of any size, generated as it is read."""
        with self._lock:
            first = min(self.entries.get("Patient", {}), default="none")
            self.big[kind] = BigFile(kind, size_bytes, patient=first)
            return self.big[kind]

    @property
    def group_id(self) -> str:
        """The first group."""
        return next(iter(self.groups))

    def get(self, kind: str, id_: str) -> Json | None:
        """The resource as it is now, or None."""
        entry = self.entries.get(kind, {}).get(id_)
        return None if entry is None else orjson.loads(entry.line)

    def resources(self, kind: str | None = None) -> Iterator[Json]:
        """All resources, of one type or of all."""
        with self._lock:
            entries = list(self._entries([kind] if kind else self.entries))
        return (orjson.loads(entry.line) for entry in entries)

    def count(self, kind: str | None = None) -> int:
        """How many resources there are, of one type or of all."""
        with self._lock:
            return sum(len(self.entries.get(name, ())) for name in ([kind] if kind else self.entries))

    def unchanged(self) -> AbstractContextManager[bool]:
        """A block in which no other thread changes the source: what is read in it is of one moment."""
        return self._lock

    def snapshot(self, types: Iterable[str], patients: Callable[[str | None], bool]) -> dict[str, list[Entry]]:
        """The entries of each type whose patient fits, at one moment."""
        with self._lock:
            return {
                kind: [entry for entry in self.entries.get(kind, {}).values() if patients(entry.patient)]
                for kind in types
            }

    def deleted(self, types: Iterable[str], patients: Callable[[str | None], bool]) -> list[Deletion]:
        """The resources that were deleted and not created again."""
        wanted = frozenset(types)
        with self._lock:
            return [gone for gone in self.deletions.values() if gone.type in wanted and patients(gone.patient)]

    def rebase(self, base: str) -> None:
        """Makes absolute references to this source's resources start with ``base``."""
        with self._lock:
            old, new = self.base.encode() + b"/", base.encode() + b"/"
            for entries in self.entries.values():
                for id_, entry in entries.items():
                    if old in entry.line:
                        entries[id_] = replace(entry, line=entry.line.replace(old, new))
            self.base = base

    def _entries(self, kinds: Iterable[str]) -> Iterator[Entry]:
        for kind in kinds:
            yield from self.entries.get(kind, {}).values()

    def _store(self, resource: Json, at: datetime, version: int) -> Json:
        kind, id_ = resource["resourceType"], resource["id"]
        resource["meta"] = {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": instant(at)}
        entry = Entry(kind, id_, orjson.dumps(resource), at, version, self._patient_of(resource))
        self.entries.setdefault(kind, {})[id_] = entry
        return resource

    def _patient_of(self, resource: Json) -> str | None:
        if resource["resourceType"] == "Patient":
            return str(resource["id"])
        for name in _PATIENT_FIELDS:
            key = self._key_of(resource.get(name))
            if key is not None and key[0] == "Patient":
                return key[1]
        for target in resource.get("target", ()):  # Provenance
            key = self._key_of(target)
            if key is not None and (entry := self.entries.get(key[0], {}).get(key[1])) is not None:
                return entry.patient
        return None

    def _key_of(self, reference: Any) -> Key | None:
        if not isinstance(reference, dict) or not isinstance(reference.get("reference"), str):
            return None
        parts = reference["reference"].removeprefix(self.base + "/").split("/")
        return (parts[0], parts[1]) if len(parts) in {2, 4} else None


def instant(at: datetime) -> str:
    """A FHIR instant with milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
