"""The resources of an export on disk, without duplicates and in write order, until they are in Medplum.

It is a cache: if it is missing or belongs to another export, the run downloads the files again.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.state.database import Change, Database, Row, delete_files
from bot_layer.errors import TransientError
from bot_layer.sealing import Seal

_TABLES: Final = {
    "resource": "type TEXT, id TEXT, place TEXT NOT NULL, updated TEXT NOT NULL, file INTEGER NOT NULL, "
    "line INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (type, id)",
    "target": "type TEXT, id TEXT, PRIMARY KEY (type, id)",
    "whole": "file INTEGER PRIMARY KEY",
    "arrived": "file INTEGER, type TEXT, number INTEGER NOT NULL, PRIMARY KEY (file, type)",
    "compared": "type TEXT PRIMARY KEY, after TEXT NOT NULL",
    "export": "name BLOB NOT NULL",
}
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
        self._lock = threading.Lock()
        self._open: Database | None = None

    @property
    def _base(self) -> Database:
        """The database, which is opened at its first use."""
        with self._lock:
            if self._open is None:
                try:
                    if self._path is not None and self._private:
                        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                        if self._path.parent.lstat().st_uid != os.getuid():
                            raise PermissionError  # another user created it first
                    self._open = Database(_set_up, _unusable, path=self._path)
                except (OSError, sa.exc.DBAPIError) as fault:
                    raise _unusable(type(fault).__name__) from fault
            return self._open

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open = None

    def remove(self) -> None:
        """Delete the patients' data in it: the resources are in Medplum, or the export is abandoned."""
        self.close()
        if self._path is not None:
            delete_files(self._path)

    def use(self, export: str) -> None:
        """Keep what belongs to this export; delete everything else."""
        with self._base.changing() as base:
            # Encrypted, so that data written with another key is deleted too. An earlier release stored text.
            names = base.run("SELECT CAST(name AS BLOB) FROM export")
            if [self._seal.open(row[0]) for row in names] != [export.encode()]:
                for table in _TABLES:
                    base.run(f"DELETE FROM {table}")  # noqa: S608 - the names are constants
                base.run("INSERT INTO export VALUES (?)", (self._seal.close(export.encode()),))

    # -- Files

    def whole(self) -> set[int]:
        """The files that are stored completely."""
        return {row[0] for row in self._base.read("SELECT file FROM whole")}

    def begin(self, file: int) -> None:
        """Start a file from its first line."""
        with self._base.changing() as base:
            for table in ("whole", "resource", "arrived"):
                base.run(f"DELETE FROM {table} WHERE file = ?", (file,))  # noqa: S608 - the names are constants

    def end(self, file: int) -> None:
        """Record that every line of a file is stored."""
        with self._base.changing() as base:
            base.run("INSERT OR IGNORE INTO whole VALUES (?)", (file,))

    def add(self, file: int, resources: Sequence[Spooled], targets: Iterable[Key] = ()) -> None:
        """Store resources. Of two versions of a resource, the later one is kept: by time stamp, then by order of
        arrival."""
        with self._base.changing() as base:
            base.many(
                "INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (type, id) DO UPDATE SET "
                "place = excluded.place, updated = excluded.updated, file = excluded.file, line = excluded.line, "
                "body = excluded.body WHERE (excluded.updated, excluded.file, excluded.line) >= (updated, file, line)",
                [
                    (*each.key, each.place, each.updated, file, each.line, self._seal.close(each.body))
                    for each in resources
                ],
            )
            base.many("INSERT OR IGNORE INTO target VALUES (?, ?)", set(targets))
            base.many(
                "INSERT INTO arrived VALUES (?, ?, ?) ON CONFLICT (file, type) DO UPDATE SET "
                "number = number + excluded.number",
                [(file, kind, number) for kind, number in Counter(each.key.type for each in resources).items()],
            )

    # -- Reading

    def read(self, after: str = "") -> Iterator[Spooled]:
        """Every resource after a position, in write order; only one page is in memory at a time."""
        while page := self._page("place > ? ORDER BY place", (after,)):
            yield from page
            after = page[-1].place

    def pages(self, kind: str, after: str = "") -> Iterator[list[Spooled]]:
        """The resources of a type after an id, page by page, in order of id."""
        while page := self._page("type = ? AND id > ? ORDER BY id", (kind, after)):
            yield page
            after = page[-1].key.id

    def _page(self, condition: str, values: Row) -> list[Spooled]:
        query = f"SELECT type, id, place, body FROM resource WHERE {condition} LIMIT {_PAGE}"  # noqa: S608 - constants
        rows = self._base.read(query, values)
        return [Spooled(Key(kind, id_), place, self._seal.open(body) or b"") for kind, id_, place, body in rows]

    def compared(self, kind: str) -> str:
        """The id up to which the resources of a type have been compared with Medplum; empty if none has."""
        rows = self._base.read("SELECT after FROM compared WHERE type = ?", (kind,))
        return str(rows[0][0]) if rows else ""

    def drop(self, keys: Iterable[Key], *, compared: Key) -> None:
        """Delete resources that need no write, and store the key up to which its type has been compared, so that the
        next step does not restart the comparison."""
        with self._base.changing() as base:
            base.many("DELETE FROM resource WHERE type = ? AND id = ?", keys)
            base.run("INSERT OR REPLACE INTO compared VALUES (?, ?)", compared)

    def holds(self, keys: Iterable[Key]) -> set[Key]:
        """The keys that are stored here."""
        query = "SELECT 1 FROM resource WHERE type = ? AND id = ?"
        with self._base.changing() as base:
            return {key for key in keys if base.run(query, key)}

    def kinds(self) -> list[str]:
        """The types of the stored resources, and of their reference targets."""
        return [str(row[0]) for row in self._base.read("SELECT type FROM resource UNION SELECT type FROM target")]

    def numbers(self) -> dict[str, int]:
        """The number of stored resources by type."""
        rows = self._base.read("SELECT type, count(*) FROM resource GROUP BY type ORDER BY type")
        return {str(row[0]): int(row[1]) for row in rows}

    def repeated(self) -> dict[str, int]:
        """The number of received resources by type that need no write: another version is stored, or Medplum has the
        same."""
        arrived = self._base.read("SELECT type, sum(number) FROM arrived GROUP BY type")
        here = self.numbers()
        return {kind: number - here.get(kind, 0) for kind, number in arrived}

    def missing_targets(self, after: Key, limit: int) -> list[Key]:
        """Reference targets that are not stored here, in order of key."""
        query = (
            "SELECT type, id FROM target t WHERE (type, id) > (?, ?) AND NOT EXISTS (SELECT 1 FROM resource r "
            "WHERE r.type = t.type AND r.id = t.id) ORDER BY type, id LIMIT ?"
        )
        return [Key(*row) for row in self._base.read(query, (*after, limit))]


def _set_up(base: Change) -> None:
    for table, columns in _TABLES.items():
        base.run(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    base.run("CREATE UNIQUE INDEX IF NOT EXISTS by_place ON resource (place)")


def _unusable(cause: str) -> TransientError:
    return TransientError(
        f"The export can't be kept on disk ({cause}): the disk may be full.", service="spool", code="spool-unusable"
    )
