"""The sync's id map: Medplum's id and the digest of each resource, and pending work.

It is a cache: Medplum itself has everything that matters, and without the map a run is slower, never wrong. Its
``cache_id`` is also stored in Medplum, a new one for each run. If the two differ, the map and Medplum have different
histories (for example, one was restored from a backup), and the map is emptied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from bot_layer.bulk_sync.rules.references import Key, by_type
from bot_layer.bulk_sync.state.database import Change, Database, Row
from bot_layer.errors import ConfigError, TransientError
from bot_layer.sealing import Seal

_TABLES: Final = {
    "known": "type TEXT, id TEXT, medplum TEXT NOT NULL, digest BLOB, compared BLOB, PRIMARY KEY (type, id)",
    "gone": "type TEXT, id TEXT, medplum TEXT NOT NULL, PRIMARY KEY (type, id)",
    "waiting": "type TEXT, id TEXT, to_type TEXT, to_id TEXT, PRIMARY KEY (type, id, to_type, to_id)",
    "refers": "to_type TEXT, to_id TEXT, type TEXT, id TEXT, PRIMARY KEY (to_type, to_id, type, id)",
    "failed": "type TEXT, id TEXT, status INTEGER, reason TEXT, resource BLOB, PRIMARY KEY (type, id)",
    "seen": "type TEXT, id TEXT, PRIMARY KEY (type, id)",
    "asked": "type TEXT, id TEXT, PRIMARY KEY (type, id)",
    "note": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
}
# Older SQLite versions limit a statement to 999 variables.
_MANY: Final = 400


@dataclass(frozen=True)
class Failure:
    """A resource that Medplum rejected, with the reason and what the source sent.

    One encrypted with another key is not ``readable``: it has no reason and no resource, but it stays in the map.
    """

    key: Key
    status: int
    reason: str = field(repr=False)
    resource: bytes = field(repr=False)
    readable: bool = True


class Known(NamedTuple):
    """Medplum's id of a resource, the digest of what the source sent last, and that of the last comparison."""

    id: str
    digest: bytes | None = None  # None: it must be written, or compared, even if the source sends the same
    compared: bytes | None = None  # of what was to be stored, and Medplum's version that equals it


class SyncMap:
    """The map in a file, in a PostgreSQL schema that several machines share, or for this process alone. Thread-safe.

    With a ``key``, rejected resources and the reasons are encrypted: only these are personal data.
    """

    def __init__(self, path: Path | None = None, *, url: str = "", schema: str = "", key: str = "") -> None:
        self._seal = Seal(key)
        self.lasting = path is not None or bool(url)  # it survives a killed process
        try:
            # What the Task records as done must survive a power failure here too; a commit covers a hundred resources.
            self._base = Database(_set_up, _unusable, path=path, url=url, schema=schema, survives_power_failure=True)
        except (OSError, sa.exc.OperationalError) as fault:
            raise ConfigError(
                "The map of ids can't be opened: set PF_STATE_DIR to a folder that may be written; a PostgreSQL "
                f"database there, or in BOT_HOST_DATABASE_URL, must answer ({type(fault).__name__}).",
                code="map-unusable",
                missing=["PF_STATE_DIR"],
            ) from fault

    def close(self) -> None:
        """Close the database."""
        self._base.close()

    # -- Notes

    def note(self, name: str) -> str:
        """The note with that name, or an empty text."""
        rows = self._base.read("SELECT value FROM note WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def write_note(self, name: str, value: str) -> None:
        """Store a note."""
        with self._base.changing() as base:
            base.run(
                "INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
            )

    def clear(self, cache_id: str) -> None:
        """Delete everything: the map has a different history."""
        with self._base.changing() as base:
            for table in _TABLES:
                base.run(f"DELETE FROM {table}")  # noqa: S608 - the names are constants
            base.run("INSERT INTO note VALUES ('cache_id', ?)", (cache_id,))

    # -- Ids

    def rows(self, keys: Iterable[Key]) -> dict[Key, Known]:
        """What is known of these keys; nothing of those that are not in Medplum."""
        found = self._among("known", "medplum, digest, compared", keys)
        return {key: Known(at, *(each and bytes(each) for each in digests)) for key, at, *digests in found}

    def ids(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of the known keys."""
        return dict(self._among("known", "medplum", keys))

    def former(self, keys: Iterable[Key]) -> dict[Key, str]:
        """The ids that these had in Medplum before they were deleted there, by this sync or by others."""
        wanted = [key for key in keys if key.type != "Binary"]  # another resource represents it
        return {key: at for table in ("gone", "known") for key, at in self._among(table, "medplum", wanted)}

    def knows(self, kind: str) -> bool:
        """True if any resource of a type is known."""
        return bool(self._base.read("SELECT 1 FROM known WHERE type = ? LIMIT 1", (kind,)))

    def record(
        self,
        known: Iterable[tuple[Key, Known]],
        *,
        waiting: Iterable[tuple[Key, Iterable[Key]]] = (),
        failures: Iterable[Failure] = (),
    ) -> None:
        """Store the result of a batch in one transaction: ids, references that wait for their target, failures."""
        rows = list(known)
        pairs = [(key, list(targets)) for key, targets in waiting]
        refused = list(failures)
        with self._base.changing() as base:
            base.many(
                "INSERT INTO known (type, id, medplum, digest, compared) VALUES (?, ?, ?, ?, ?) ON CONFLICT (type, id) "
                "DO UPDATE SET medplum = excluded.medplum, digest = excluded.digest, compared = excluded.compared",
                [(*key, *each) for key, each in rows],
            )
            for table in ("failed", "gone"):
                base.many(f"DELETE FROM {table} WHERE type = ? AND id = ?", [key for key, _ in rows])  # noqa: S608
            base.many("DELETE FROM waiting WHERE type = ? AND id = ?", [key for key, _ in pairs])
            base.many(
                "INSERT INTO waiting VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(*key, *target) for key, targets in pairs for target in targets],
            )
            base.many(
                "INSERT INTO failed VALUES (?, ?, ?, ?, ?) ON CONFLICT (type, id) DO UPDATE SET "
                "status = excluded.status, reason = excluded.reason, resource = excluded.resource",
                [self._row(each) for each in refused if each.readable],
            )
            # If the source returns to what it sent before, the failure must end.
            base.many(
                "UPDATE known SET digest = NULL, compared = NULL WHERE type = ? AND id = ?",
                [each.key for each in refused],
            )

    def forget(self, keys: Sequence[Key]) -> None:
        """Remove resources that were deleted in Medplum. Their ids are kept in case the source sends them again."""
        with self._base.changing() as base:
            base.many(
                "INSERT INTO gone SELECT type, id, medplum FROM known WHERE type = ? AND id = ? AND type <> 'Binary' "
                "ON CONFLICT (type, id) DO UPDATE SET medplum = excluded.medplum",
                keys,
            )
            for table in ("known", "waiting", "failed"):
                base.many(f"DELETE FROM {table} WHERE type = ? AND id = ?", keys)  # noqa: S608

    # -- References that wait for their target

    def repairable(self, limit: int) -> list[Key]:
        """Resources with a pending reference whose target is now known."""
        return self._keys(
            "SELECT DISTINCT w.type, w.id FROM waiting w JOIN known k ON k.type = w.to_type AND k.id = w.to_id "
            "ORDER BY 1, 2 LIMIT ?",
            (limit,),
        )

    def targets_of(self, keys: Iterable[Key]) -> set[Key]:
        """The targets that these resources wait for."""
        return {Key(*target) for _, *target in self._among("waiting", "to_type, to_id", keys)}

    def waiting_targets(self, after: Key, limit: int) -> list[Key]:
        """Unknown targets after a key that the source was not asked for yet."""
        return self._keys(
            "SELECT DISTINCT to_type, to_id FROM waiting w WHERE NOT EXISTS "
            "(SELECT 1 FROM known k WHERE k.type = w.to_type AND k.id = w.to_id) AND NOT EXISTS "
            "(SELECT 1 FROM asked a WHERE a.type = w.to_type AND a.id = w.to_id) AND (to_type, to_id) > (?, ?) "
            "ORDER BY 1, 2 LIMIT ?",
            (*after, limit),
        )

    def waiting(self) -> int:
        """The number of logical references whose target is not in Medplum."""
        return int(self._base.read("SELECT count(*) FROM waiting")[0][0])

    def asked(self, keys: Iterable[Key]) -> set[Key]:
        """The keys that the source was asked for and does not have."""
        return {key for (key,) in self._among("asked", "", keys)}

    def write_asked(self, keys: Iterable[Key]) -> None:
        """Record that the source does not have these, so that it is asked only once."""
        self._add("asked", keys)

    def ask_anew(self, rights: str) -> None:
        """Delete these records if the source was asked with other rights, or not at all."""
        if self.note("asked_with") != rights:
            with self._base.changing() as base:
                base.run("DELETE FROM asked")
            self.write_note("asked_with", rights)

    # -- Who refers to what

    def write_references(self, pairs: Iterable[tuple[Key, Iterable[Key]]]) -> None:
        """Record what each resource refers to. Outdated references may remain recorded."""
        self._add("refers", ((*target, *key) for key, targets in pairs for target in targets))

    def referrers(self, targets: Iterable[Key]) -> Iterator[list[Key]]:
        """The resources that may refer to these, a hundred at a time."""
        for kind, ids in by_type(targets, _MANY):
            query = (
                f"SELECT DISTINCT type, id FROM refers WHERE to_type = ? AND to_id IN ({_marks(ids)}) "  # noqa: S608
                "AND (type, id) > (?, ?) ORDER BY 1, 2 LIMIT 100"
            )
            after = Key("", "")
            while found := self._keys(query, (kind, *ids, *after)):
                yield found
                after = found[-1]

    # -- Failures

    def failures(self) -> Iterator[Failure]:
        """The rejected resources, in order of key. They are read page by page, because there may be very many."""
        last = ("", "")
        columns = "type, id, status, reason, resource"
        query = f"SELECT {columns} FROM failed WHERE (type, id) > (?, ?) ORDER BY type, id LIMIT {_MANY}"  # noqa: S608
        while rows := self._base.read(query, last):
            yield from map(self._failure, rows)
            last = (rows[-1][0], rows[-1][1])

    def _row(self, failure: Failure) -> Row:
        reason = self._seal.close(failure.reason.encode()).decode()
        return *failure.key, failure.status, reason, self._seal.close(failure.resource)

    def _failure(self, row: Row) -> Failure:
        reason, resource = self._seal.open(row[3].encode()), self._seal.open(bytes(row[4]))
        key, readable = Key(row[0], row[1]), reason is not None and resource is not None
        return Failure(key, row[2], (reason or b"").decode(), resource or b"", readable=readable)

    # -- What a full export showed

    def begin_seeing(self) -> None:
        """Start a reconcile: nothing has been seen yet."""
        with self._base.changing() as base:
            base.run("DELETE FROM seen")

    def write_seen(self, keys: Iterable[Key]) -> None:
        """Record that the source still has these."""
        self._add("seen", keys)

    def unseen(self, keys: Sequence[Key]) -> list[Key]:
        """The keys that the full export did not contain."""
        seen = {key for (key,) in self._among("seen", "", keys)}
        return [key for key in keys if key not in seen]

    # -- Any table

    def _among(self, table: str, columns: str, keys: Iterable[Key]) -> list[tuple[Any, ...]]:
        """Key and columns of the rows of these keys."""
        query = f"SELECT type, id{', ' + columns if columns else ''} FROM {table} WHERE type = ? AND id IN "  # noqa: S608
        with self._base.changing() as base:
            return [
                (Key(row[0], row[1]), *row[2:])
                for kind, ids in by_type(keys, _MANY)
                for row in base.run(f"{query}({_marks(ids)})", (kind, *ids))
            ]

    def _add(self, table: str, rows: Iterable[Sequence[str]]) -> None:
        """Add the rows that are not there yet."""
        with self._base.changing() as base:
            listed = list(rows)
            marks = _marks(listed[0]) if listed else ""
            base.many(f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING", listed)  # noqa: S608

    def _keys(self, query: str, values: Row) -> list[Key]:
        return [Key(row[0], row[1]) for row in self._base.read(query, values)]


def _set_up(base: Change) -> None:
    for table, columns in _TABLES.items():
        base.run(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    base.run("CREATE INDEX IF NOT EXISTS waiting_to ON waiting (to_type, to_id)")
    if not base.has_column("known", "compared"):
        base.run("ALTER TABLE known ADD COLUMN compared BLOB")


def _unusable(cause: str) -> TransientError:
    return TransientError(
        "The map of ids can't be used any more: its disk may be full, its file damaged (then delete it), or "
        f"its database unreachable ({cause}).",
        service="map of ids",
        code="map-unusable",
    )


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))
