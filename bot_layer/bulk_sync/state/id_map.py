"""The sync's id map: Medplum's id and the digest of each resource, and pending work.

It is a cache: Medplum itself has everything that matters, and without the map a run is slower, never wrong. Its
``cache_id`` is also stored in Medplum, a new one for each run. If the two differ, the map and Medplum have different
histories (for example, one was restored from a backup), and the map is emptied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.state.database import Row, SyncDatabase
from bot_layer.sealing import Seal

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS known (type TEXT, id TEXT, medplum TEXT NOT NULL, digest BLOB, PRIMARY KEY (type, id))",
    "CREATE TABLE IF NOT EXISTS gone (type TEXT, id TEXT, medplum TEXT NOT NULL, PRIMARY KEY (type, id))",
    "CREATE TABLE IF NOT EXISTS waiting (type TEXT, id TEXT, to_type TEXT, to_id TEXT, "
    "PRIMARY KEY (type, id, to_type, to_id))",
    "CREATE INDEX IF NOT EXISTS waiting_to ON waiting (to_type, to_id)",
    "CREATE TABLE IF NOT EXISTS refers (to_type TEXT, to_id TEXT, type TEXT, id TEXT, "
    "PRIMARY KEY (to_type, to_id, type, id))",
    "CREATE TABLE IF NOT EXISTS failed (type TEXT, id TEXT, status INTEGER, reason TEXT, resource BLOB, "
    "PRIMARY KEY (type, id))",
    "CREATE TABLE IF NOT EXISTS seen (type TEXT, id TEXT, PRIMARY KEY (type, id))",
    "CREATE TABLE IF NOT EXISTS asked (type TEXT, id TEXT, PRIMARY KEY (type, id))",
    "CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
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


class SyncMap:
    """The map in a file, in a PostgreSQL schema that several machines share, or in memory. Thread-safe.

    With a ``key``, rejected resources and the reasons are encrypted: only these are personal data.
    """

    def __init__(self, path: Path | None = None, *, url: str = "", schema: str = "", key: str = "") -> None:
        self._seal = Seal(key)
        self._base = SyncDatabase(_TABLES, path=path, url=url, schema=schema)
        self.lasting = path is not None or bool(url)  # it survives a killed process

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
            for table in ("known", "gone", "waiting", "refers", "failed", "seen", "asked", "note"):
                base.run(f"DELETE FROM {table}")  # noqa: S608 - the names are constants
            base.run("INSERT INTO note VALUES ('cache_id', ?)", (cache_id,))

    # -- Ids

    def rows(self, keys: Iterable[Key]) -> dict[Key, tuple[str, bytes | None]]:
        """Medplum's id and the digest of the last written version, for the known keys."""
        found: dict[Key, tuple[str, bytes | None]] = {}
        with self._base.changing() as base:
            for kind, ids in _by_type(keys):
                query = f"SELECT id, medplum, digest FROM known WHERE type = ? AND id IN ({_marks(ids)})"  # noqa: S608
                for source_id, medplum, digest in base.run(query, (kind, *ids)):
                    found[Key(kind, source_id)] = (medplum, None if digest is None else bytes(digest))
        return found

    def former(self, keys: Iterable[Key]) -> dict[Key, str]:
        """The ids that these had in Medplum before they were deleted there, by this sync or by others."""
        found: dict[Key, str] = {}
        with self._base.changing() as base:
            for kind, ids in _by_type(key for key in keys if key.type != "Binary"):  # another resource represents it
                for table in ("gone", "known"):
                    query = f"SELECT id, medplum FROM {table} WHERE type = ? AND id IN ({_marks(ids)})"  # noqa: S608
                    found |= {Key(kind, row[0]): str(row[1]) for row in base.run(query, (kind, *ids))}
        return found

    def ids(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of the known keys."""
        return {key: medplum for key, (medplum, _) in self.rows(keys).items()}

    def knows(self, kind: str) -> bool:
        """True if any resource of a type is known."""
        return bool(self._base.read("SELECT 1 FROM known WHERE type = ? LIMIT 1", (kind,)))

    def record(
        self,
        known: Iterable[tuple[Key, str, bytes | None]],
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
                "INSERT INTO known VALUES (?, ?, ?, ?) ON CONFLICT (type, id) "
                "DO UPDATE SET medplum = excluded.medplum, digest = excluded.digest",
                [(*key, at, digest) for key, at, digest in rows],
            )
            for table in ("failed", "gone"):
                base.many(f"DELETE FROM {table} WHERE type = ? AND id = ?", [key for key, _, _ in rows])  # noqa: S608
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
            base.many("UPDATE known SET digest = NULL WHERE type = ? AND id = ?", [each.key for each in refused])

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

    def count(self) -> int:
        """The number of known resources."""
        return self._number("SELECT count(*) FROM known")

    # -- References that wait for their target

    def repairable(self, limit: int) -> list[Key]:
        """Resources with a pending reference whose target is now known."""
        return self._keys(
            "SELECT DISTINCT w.type, w.id FROM waiting w JOIN known k ON k.type = w.to_type AND k.id = w.to_id "
            "ORDER BY 1, 2 LIMIT ?",
            (limit,),
        )

    def targets_of(self, key: Key) -> list[Key]:
        """The targets that a resource waits for."""
        return self._keys("SELECT to_type, to_id FROM waiting WHERE type = ? AND id = ?", key)

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
        return self._number("SELECT count(*) FROM waiting")

    def asked(self, keys: Iterable[Key]) -> set[Key]:
        """The keys that the source was asked for and does not have."""
        found: set[Key] = set()
        with self._base.changing() as base:
            for kind, ids in _by_type(keys):
                query = f"SELECT id FROM asked WHERE type = ? AND id IN ({_marks(ids)})"  # noqa: S608
                found |= {Key(kind, row[0]) for row in base.run(query, (kind, *ids))}
        return found

    def write_asked(self, keys: Iterable[Key]) -> None:
        """Record that the source does not have these, so that it is asked only once."""
        with self._base.changing() as base:
            base.many("INSERT INTO asked VALUES (?, ?) ON CONFLICT DO NOTHING", keys)

    def ask_anew(self, rights: str) -> None:
        """Delete these records if the source was asked with other rights, or not at all."""
        if self.note("asked_with") != rights:
            with self._base.changing() as base:
                base.run("DELETE FROM asked")
            self.write_note("asked_with", rights)

    # -- Who refers to what

    def write_references(self, pairs: Iterable[tuple[Key, Iterable[Key]]]) -> None:
        """Record what each resource refers to. Outdated references may remain recorded."""
        with self._base.changing() as base:
            base.many(
                "INSERT INTO refers VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(*target, *key) for key, targets in pairs for target in targets],
            )

    def referrers(self, targets: Iterable[Key]) -> Iterator[list[Key]]:
        """The resources that may refer to these, a hundred at a time."""
        for kind, ids in _by_type(targets):
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
        with self._base.changing() as base:
            base.many("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", keys)

    def unseen(self, keys: Sequence[Key]) -> list[Key]:
        """The keys that the full export did not contain."""
        seen: set[Key] = set()
        with self._base.changing() as base:
            for kind, ids in _by_type(keys):
                query = f"SELECT id FROM seen WHERE type = ? AND id IN ({_marks(ids)})"  # noqa: S608
                seen |= {Key(kind, row[0]) for row in base.run(query, (kind, *ids))}
        return [key for key in keys if key not in seen]

    def _keys(self, query: str, values: Row) -> list[Key]:
        return [Key(row[0], row[1]) for row in self._base.read(query, values)]

    def _number(self, query: str) -> int:
        return int(self._base.read(query)[0][0])


def _by_type(keys: Iterable[Key]) -> Iterator[tuple[str, list[str]]]:
    """The ids of each type, in lists small enough for one statement."""
    by_type: dict[str, list[str]] = {}
    for key in keys:
        by_type.setdefault(key.type, []).append(key.id)
    for kind, ids in by_type.items():
        for start in range(0, len(ids), _MANY):
            yield kind, ids[start : start + _MANY]


def _marks(ids: Sequence[str]) -> str:
    return ",".join("?" * len(ids))
