"""The resources of an export on disk, without duplicates and in write order, until they are in Medplum.

It is a cache: if it is missing or belongs to another export, the run downloads the files again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.errors import TransientError
from bot_layer.sealing import Seal

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS resource (type TEXT, id TEXT, place TEXT NOT NULL, updated TEXT NOT NULL,
    file INTEGER NOT NULL, line INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (type, id));
CREATE UNIQUE INDEX IF NOT EXISTS by_place ON resource (place);
CREATE TABLE IF NOT EXISTS target (type TEXT, id TEXT, PRIMARY KEY (type, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS whole (file INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS arrived (file INTEGER, type TEXT, number INTEGER NOT NULL, PRIMARY KEY (file, type));
CREATE TABLE IF NOT EXISTS compared (type TEXT PRIMARY KEY, after TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS export (name BLOB NOT NULL);
"""
_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Spooled:
    """One resource: its position in the write order, and its text as the source sent it."""

    key: Key
    place: str
    body: bytes = field(repr=False)
    updated: str = ""  # its time stamp as sortable text; empty if it has none
    line: int = 0


class Spool:
    """The spool in a file, or in a temporary one that is deleted with the process. Thread-safe.

    It contains patients' data: only this user can read the file, and with a ``key`` the resources in it are encrypted.
    With ``private`` the folder must belong to this user, because another user may own one in a shared temporary folder.
    """

    def __init__(self, path: Path | None = None, *, key: str = "", private: bool = False) -> None:
        self._path, self._private, self._seal = path, private, Seal(key)
        self._lock = threading.RLock()
        self._open: sqlite3.Connection | None = None

    @property
    def _base(self) -> sqlite3.Connection:
        with self._lock:
            if self._open is None:
                self._open = self._opened()
            return self._open

    def _opened(self) -> sqlite3.Connection:
        if self._path is not None:
            folder = self._path.parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._private and folder.lstat().st_uid != os.getuid():
                raise PermissionError  # another user created it first
            self._path.touch(mode=0o600)
            self._path.chmod(0o600)
        for attempt in (1, 2):
            base = sqlite3.connect(self._path or "", check_same_thread=False, isolation_level=None, timeout=30)
            try:
                base.execute("PRAGMA journal_mode=WAL")
                base.execute("PRAGMA synchronous=NORMAL")
                base.executescript(_TABLES)
            except sqlite3.DatabaseError:
                base.close()
                if attempt == 2 or self._path is None:
                    raise
                self._unlink()
            else:
                return base
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open = None

    def remove(self) -> None:
        """Delete the patients' data in it: the resources are in Medplum, or the export is abandoned."""
        with self._lock:
            self.close()
            self._unlink()

    def _unlink(self) -> None:
        for end in ("", "-wal", "-shm"):
            if self._path is not None:
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                base = self._base
                base.execute("BEGIN")
                yield base
                base.execute("COMMIT")
            except (OSError, sqlite3.Error) as fault:
                self.close()  # which rolls back uncommitted changes
                raise TransientError(
                    f"The export can't be kept on disk ({type(fault).__name__}): the disk may be full.",
                    service="spool",
                    code="spool-unusable",
                ) from fault
            except BaseException:
                self.close()
                raise

    def use(self, export: str) -> None:
        """Keep what belongs to this export; delete everything else."""
        with self._changing() as base:
            # Encrypted, so that data written with another key is deleted too. An earlier release stored text.
            names = base.execute("SELECT CAST(name AS BLOB) FROM export")
            if [self._seal.open(row[0]) for row in names] != [export.encode()]:
                self._clear(base)
                base.execute("INSERT INTO export VALUES (?)", (self._seal.close(export.encode()),))

    def _spooled(self, rows: Iterable[Sequence[Any]]) -> list[Spooled]:
        return [Spooled(Key(kind, id_), place, self._seal.open(body) or b"") for kind, id_, place, body in rows]

    def _clear(self, base: sqlite3.Connection) -> None:
        for table in ("resource", "target", "whole", "arrived", "compared", "export"):
            base.execute(f"DELETE FROM {table}")  # noqa: S608 - the names are constants

    # -- Files

    def whole(self) -> set[int]:
        """The files that are stored completely."""
        with self._lock:
            return {row[0] for row in self._base.execute("SELECT file FROM whole")}

    def begin(self, file: int) -> None:
        """Start a file from its first line."""
        with self._changing() as base:
            base.execute("DELETE FROM whole WHERE file = ?", (file,))
            base.execute("DELETE FROM resource WHERE file = ?", (file,))
            base.execute("DELETE FROM arrived WHERE file = ?", (file,))

    def end(self, file: int) -> None:
        """Record that every line of a file is stored."""
        with self._changing() as base:
            base.execute("INSERT OR IGNORE INTO whole VALUES (?)", (file,))

    def add(self, file: int, resources: Sequence[Spooled], targets: Iterable[Key] = ()) -> None:
        """Store resources. Of two versions of a resource, the later one is kept: by time stamp, then by order of
        arrival."""
        with self._changing() as base:
            base.executemany(
                "INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (type, id) DO UPDATE SET "
                "place = excluded.place, updated = excluded.updated, file = excluded.file, line = excluded.line, "
                "body = excluded.body WHERE (excluded.updated, excluded.file, excluded.line) >= (updated, file, line)",
                [
                    (*each.key, each.place, each.updated, file, each.line, self._seal.close(each.body))
                    for each in resources
                ],
            )
            base.executemany("INSERT OR IGNORE INTO target VALUES (?, ?)", set(targets))
            base.executemany(
                "INSERT INTO arrived VALUES (?, ?, ?) ON CONFLICT (file, type) DO UPDATE SET "
                "number = number + excluded.number",
                [(file, kind, number) for kind, number in Counter(each.key.type for each in resources).items()],
            )

    # -- Reading

    def read(self, after: str = "") -> Iterator[Spooled]:
        """Every resource after a position, in write order; only one page is in memory at a time."""
        query = f"SELECT type, id, place, body FROM resource WHERE place > ? ORDER BY place LIMIT {_PAGE}"  # noqa: S608
        while True:
            with self._lock:
                rows = self._base.execute(query, (after,)).fetchall()
            if not rows:
                return
            yield from self._spooled(rows)
            after = rows[-1][2]

    def compared(self, kind: str) -> str:
        """The id up to which the resources of a type have been compared with Medplum; empty if none has."""
        with self._lock:
            row = self._base.execute("SELECT after FROM compared WHERE type = ?", (kind,)).fetchone()
        return str(row[0]) if row else ""

    def keep_compared(self, kind: str, after: str) -> None:
        """Store that id, so that the next step does not restart the comparison."""
        with self._changing() as base:
            base.execute("INSERT OR REPLACE INTO compared VALUES (?, ?)", (kind, after))

    def pages(self, kind: str, after: str = "") -> Iterator[list[Spooled]]:
        """The resources of a type after an id, a hundred at a time, in order of id."""
        query = "SELECT type, id, place, body FROM resource WHERE type = ? AND id > ? ORDER BY id LIMIT 100"
        while True:
            with self._lock:
                rows = self._base.execute(query, (kind, after)).fetchall()
            if not rows:
                return
            yield self._spooled(rows)
            after = rows[-1][1]

    def drop(self, keys: Iterable[Key]) -> None:
        """Delete resources that need no write."""
        with self._changing() as base:
            base.executemany("DELETE FROM resource WHERE type = ? AND id = ?", list(keys))

    def holds(self, keys: Iterable[Key]) -> set[Key]:
        """The keys that are stored here."""
        query = "SELECT 1 FROM resource WHERE type = ? AND id = ?"
        with self._lock:
            return {key for key in keys if self._base.execute(query, key).fetchone()}

    def kinds(self) -> list[str]:
        """The types of the stored resources, and of their reference targets."""
        with self._lock:
            found = self._base.execute("SELECT type FROM resource UNION SELECT type FROM target")
            return [str(row[0]) for row in found]

    def numbers(self) -> dict[str, int]:
        """The number of stored resources by type."""
        return self._by_type("SELECT type, count(*) FROM resource GROUP BY type ORDER BY type")

    def repeated(self) -> dict[str, int]:
        """The number of received resources by type that need no write: another version is stored, or Medplum has the
        same."""
        arrived = self._by_type("SELECT type, sum(number) FROM arrived GROUP BY type")
        here = self.numbers()
        return {kind: number - here.get(kind, 0) for kind, number in arrived.items()}

    def _by_type(self, query: str) -> dict[str, int]:
        with self._lock:
            return {str(kind): int(number) for kind, number in self._base.execute(query)}

    def missing_targets(self, after: Key, limit: int) -> list[Key]:
        """Reference targets that are not stored here, in order of key."""
        query = (
            "SELECT type, id FROM target t WHERE (type, id) > (?, ?) AND NOT EXISTS (SELECT 1 FROM resource r "
            "WHERE r.type = t.type AND r.id = t.id) ORDER BY type, id LIMIT ?"
        )
        with self._lock:
            return [Key(*row) for row in self._base.execute(query, (*after, limit))]
