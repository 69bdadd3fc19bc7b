"""What the sync remembers on disk: Medplum's id and the digest of each resource, and what is still to be done.

It is a cache: Medplum itself holds everything that matters, and without the file a run is slower, never wrong. The
file's ``cache_id`` stands in Medplum too; where the two differ, the file belongs to another past and is emptied.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bot_layer.core.references import Key

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS known (type TEXT, id TEXT, medplum TEXT NOT NULL, digest BLOB, PRIMARY KEY (type, id))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (type TEXT, id TEXT, to_type TEXT, to_id TEXT,
  PRIMARY KEY (type, id, to_type, to_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_to ON waiting (to_type, to_id);
CREATE TABLE IF NOT EXISTS failed (type TEXT, id TEXT, status INTEGER, reason TEXT, resource BLOB,
  PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (type TEXT, id TEXT, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (type TEXT, id TEXT, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
# SQLite's limit of variables in a statement was 999 for long.
_MANY: Final = 400


@dataclass(frozen=True)
class Failure:
    """A resource that Medplum refused, with its words and what the source sent."""

    key: Key
    status: int
    reason: str = field(repr=False)
    resource: bytes = field(repr=False)


class SyncMap:
    """The file. Safe to share between threads."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=30)
        self._lock = threading.RLock()
        with self._lock:
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._base:
            yield self._base

    # -- Notes

    def note(self, name: str) -> str:
        """A note of that name, or an empty text."""
        with self._lock:
            row = self._base.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def write_note(self, name: str, value: str) -> None:
        """Keep a note."""
        with self._changing() as base:
            base.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value))

    def clear(self, cache_id: str) -> None:
        """Forget everything: the file belongs to another past."""
        with self._changing() as base:
            for table in ("known", "waiting", "failed", "seen", "asked", "note"):
                base.execute(f"DELETE FROM {table}")  # noqa: S608 - the names stand above
            base.execute("INSERT INTO note VALUES ('cache_id', ?)", (cache_id,))

    # -- Ids

    def rows(self, keys: Iterable[Key]) -> dict[Key, tuple[str, bytes | None]]:
        """Medplum's id and the digest of what was last written, for those keys that are known."""
        found: dict[Key, tuple[str, bytes | None]] = {}
        by_type: dict[str, list[str]] = {}
        for key in keys:
            by_type.setdefault(key.type, []).append(key.id)
        with self._lock:
            for kind, ids in by_type.items():
                for start in range(0, len(ids), _MANY):
                    some = ids[start : start + _MANY]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT id, medplum, digest FROM known WHERE type = ? AND id IN ({marks})"  # noqa: S608
                    for source_id, medplum, digest in self._base.execute(query, (kind, *some)):
                        found[Key(kind, source_id)] = (medplum, digest)
        return found

    def ids(self, keys: Iterable[Key]) -> dict[Key, str]:
        """Medplum's ids of those keys that are known."""
        return {key: medplum for key, (medplum, _) in self.rows(keys).items()}

    def knows(self, kind: str) -> bool:
        """True where any resource of a type is known."""
        with self._lock:
            return self._base.execute("SELECT 1 FROM known WHERE type = ? LIMIT 1", (kind,)).fetchone() is not None

    def record(
        self,
        known: Iterable[tuple[Key, str, bytes | None]],
        *,
        waiting: Iterable[tuple[Key, Iterable[Key]]] = (),
        failures: Iterable[Failure] = (),
    ) -> None:
        """What a batch brought, in one transaction: ids, references that wait, failures."""
        with self._changing() as base:
            rows = list(known)
            base.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", [(*key, at, d) for key, at, d in rows])
            base.executemany("DELETE FROM failed WHERE type = ? AND id = ?", [key for key, _, _ in rows])
            for key, targets in waiting:
                base.execute("DELETE FROM waiting WHERE type = ? AND id = ?", key)
                base.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", [(*key, *each) for each in targets])
            base.executemany(
                "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)",
                [(*each.key, each.status, each.reason, each.resource) for each in failures],
            )

    def forget(self, keys: Sequence[Key]) -> None:
        """What was deleted in Medplum: nothing points to it any more."""
        with self._changing() as base:
            for table in ("known", "waiting", "failed"):
                base.executemany(f"DELETE FROM {table} WHERE type = ? AND id = ?", keys)  # noqa: S608

    def forget_digests(self) -> None:
        """Make the next run look at everything again."""
        with self._changing() as base:
            base.execute("UPDATE known SET digest = NULL")

    def count(self) -> int:
        """The number of known resources."""
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM known").fetchone()[0])

    # -- References that wait for their target

    def repairable(self, limit: int) -> list[Key]:
        """Resources with a reference whose target is known by now."""
        query = (
            "SELECT DISTINCT w.type, w.id FROM waiting w JOIN known k ON k.type = w.to_type AND k.id = w.to_id "
            "ORDER BY 1, 2 LIMIT ?"
        )
        with self._lock:
            return [Key(*row) for row in self._base.execute(query, (limit,))]

    def targets_of(self, key: Key) -> list[Key]:
        """The targets that a resource waits for."""
        query = "SELECT to_type, to_id FROM waiting WHERE type = ? AND id = ?"
        with self._lock:
            return [Key(*row) for row in self._base.execute(query, key)]

    def waiting_targets(self, limit: int) -> list[Key]:
        """Targets that are not known, and that the source was not asked for yet."""
        query = (
            "SELECT DISTINCT to_type, to_id FROM waiting w WHERE NOT EXISTS "
            "(SELECT 1 FROM known k WHERE k.type = w.to_type AND k.id = w.to_id) AND NOT EXISTS "
            "(SELECT 1 FROM asked a WHERE a.type = w.to_type AND a.id = w.to_id) ORDER BY 1, 2 LIMIT ?"
        )
        with self._lock:
            return [Key(*row) for row in self._base.execute(query, (limit,))]

    def waiting(self) -> int:
        """How many references are logical because their target is nowhere."""
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM waiting").fetchone()[0])

    def write_asked(self, keys: Iterable[Key]) -> None:
        """The source was asked for these, so that it is asked once."""
        with self._changing() as base:
            base.executemany("INSERT OR IGNORE INTO asked VALUES (?, ?)", keys)

    # -- Failures

    def failures(self) -> list[Failure]:
        """What Medplum refused, in order of key."""
        with self._lock:
            rows = self._base.execute(
                "SELECT type, id, status, reason, resource FROM failed ORDER BY type, id"
            ).fetchall()
        return [Failure(Key(row[0], row[1]), row[2], row[3], row[4]) for row in rows]

    # -- What a full export showed

    def begin_seeing(self) -> None:
        """Start a reconcile: nothing was seen yet."""
        with self._changing() as base:
            base.execute("DELETE FROM seen")

    def write_seen(self, keys: Iterable[Key]) -> None:
        """The source still has these."""
        with self._changing() as base:
            base.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", keys)

    def unseen(self, keys: Sequence[Key]) -> list[Key]:
        """Those of the keys that the full export did not show."""
        with self._lock:
            return [
                key
                for key in keys
                if self._base.execute("SELECT 1 FROM seen WHERE type = ? AND id = ?", key).fetchone() is None
            ]

    def seen_count(self) -> int:
        """How many the full export showed."""
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM seen").fetchone()[0])
