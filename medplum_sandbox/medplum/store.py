"""Resources in SQLite: current versions, their history, and one index for every kind of search parameter.

One index row is (key, value, system, high): ``key`` identifies project, type and parameter. A token is value and
system, a reference id and type, a date its first and last instant, a text one row for each word. With the rows
ordered by key and value, a search for a hundred identifiers among 200,000 resources is a hundred look-ups.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from medplum_sandbox.json import Json

SCHEMA = """
CREATE TABLE IF NOT EXISTS resource (
  rid INTEGER PRIMARY KEY, project TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL UNIQUE,
  version TEXT NOT NULL, updated TEXT NOT NULL, deleted INTEGER NOT NULL, content BLOB);
CREATE INDEX IF NOT EXISTS resource_type ON resource (project, type, deleted, rid);
CREATE INDEX IF NOT EXISTS resource_updated ON resource (project, type, deleted, updated, rid);
CREATE TABLE IF NOT EXISTS past (
  pid INTEGER PRIMARY KEY, rid INTEGER NOT NULL, version TEXT NOT NULL, updated TEXT NOT NULL,
  deleted INTEGER NOT NULL, content BLOB);
CREATE INDEX IF NOT EXISTS past_rid ON past (rid);
CREATE TABLE IF NOT EXISTS search_key (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS search_index (
  rid INTEGER NOT NULL, key INTEGER NOT NULL, value NOT NULL, system TEXT NOT NULL, high TEXT NOT NULL,
  PRIMARY KEY (rid, key, value, system, high)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS search_value ON search_index (key, value, system, high, rid);
CREATE TABLE IF NOT EXISTS blob (id TEXT PRIMARY KEY, content BLOB NOT NULL);
"""


@dataclass(frozen=True)
class IndexRow:
    """What one search parameter finds in one resource."""

    parameter: str
    value: str | float
    system: str = ""
    high: str = ""


@dataclass(frozen=True)
class Stored:
    """One version of a resource as the store holds it; ``content`` is None for a deletion."""

    rid: int
    project: str
    type: str
    id: str
    version: str
    updated: str
    deleted: bool
    content: bytes | None

    def resource(self) -> Json:
        """A fresh copy that the caller may change."""
        assert self.content is not None
        found: Json = orjson.loads(self.content)
        return found


_COLUMNS = "rid, project, type, id, version, updated, deleted, content"


class Store:
    """The tables. The caller holds the world's lock: one connection serves all threads."""

    def __init__(self, path: str | None = None) -> None:
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        if path:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)
        self._keys: dict[str, int] = dict(self._db.execute("SELECT name, key FROM search_key"))
        self._depth = 0

    def close(self) -> None:
        """Ends the connection; a file keeps committed data."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[bool]:
        """True for the outermost transaction, whose end makes the writes durable; inner ones are savepoints."""
        outermost = self._depth == 0
        name = f"level{self._depth}"
        self._db.execute("BEGIN" if outermost else f"SAVEPOINT {name}")
        self._depth += 1
        try:
            yield outermost
        except BaseException:
            self._db.execute("ROLLBACK" if outermost else f"ROLLBACK TO {name}")
            if outermost:
                self._keys = dict(self._db.execute("SELECT name, key FROM search_key"))
            raise
        else:
            if outermost:
                self._db.execute("COMMIT")
        finally:
            self._depth -= 1
            if not outermost:
                self._db.execute(f"RELEASE {name}")

    def insert(self, project: str, resource: Json, rows: Sequence[IndexRow]) -> None:
        """Stores the first version of a resource."""
        meta = resource["meta"]
        cursor = self._db.execute(
            "INSERT INTO resource (project, type, id, version, updated, deleted, content) VALUES (?,?,?,?,?,0,?)",
            (
                project,
                resource["resourceType"],
                resource["id"],
                meta["versionId"],
                meta["lastUpdated"],
                orjson.dumps(resource),
            ),
        )
        assert cursor.lastrowid is not None
        self._index(cursor.lastrowid, project, resource["resourceType"], rows)

    def replace(self, old: Stored, resource: Json, rows: Sequence[IndexRow]) -> None:
        """Stores the next version, and keeps the old one as history."""
        self._to_history(old)
        meta = resource["meta"]
        self._db.execute(
            "UPDATE resource SET version=?, updated=?, deleted=0, content=? WHERE rid=?",
            (meta["versionId"], meta["lastUpdated"], orjson.dumps(resource), old.rid),
        )
        self._db.execute("DELETE FROM search_index WHERE rid=?", (old.rid,))
        self._index(old.rid, old.project, old.type, rows)

    def delete(self, old: Stored, version: str, updated: str) -> None:
        """Marks the resource as deleted; its versions stay readable."""
        self._to_history(old)
        self._db.execute(
            "UPDATE resource SET version=?, updated=?, deleted=1, content=NULL WHERE rid=?", (version, updated, old.rid)
        )
        self._db.execute("DELETE FROM search_index WHERE rid=?", (old.rid,))

    def get(self, id: str) -> Stored | None:
        """The current version, of any project: the caller checks the project."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM resource WHERE id=?", (id,)).fetchone()  # noqa: S608  # a constant
        return _stored(row) if row else None

    def versions(self, current: Stored) -> list[Stored]:
        """All versions, newest first."""
        rows = self._db.execute(
            "SELECT version, updated, deleted, content FROM past WHERE rid=? ORDER BY pid DESC", (current.rid,)
        )
        head = (current.rid, current.project, current.type, current.id)
        return [current, *(_stored((*head, *row)) for row in rows)]

    def select(self, where: str, arguments: Sequence[Any], *, order: str, limit: int, offset: int) -> list[Stored]:
        """The current resources that a compiled search finds."""
        sql = f"SELECT {_COLUMNS} FROM resource r WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608  # built of constants; values are bound
        return [_stored(row) for row in self._db.execute(sql, (*arguments, limit, offset))]

    def count(self, where: str, arguments: Sequence[Any]) -> int:
        """How many a compiled search finds."""
        sql = f"SELECT count(*) FROM resource r WHERE {where}"  # noqa: S608  # built of constants; values are bound
        found: int = self._db.execute(sql, tuple(arguments)).fetchone()[0]
        return found

    def key(self, project: str, resource_type: str, parameter: str) -> int:
        """The index key of a parameter of a type in a project."""
        name = f"{project}|{resource_type}|{parameter}"
        key = self._keys.get(name)
        if key is None:
            cursor = self._db.execute("INSERT INTO search_key (name) VALUES (?)", (name,))
            assert cursor.lastrowid is not None
            key = self._keys[name] = cursor.lastrowid
        return key

    def put_blob(self, id: str, content: bytes) -> None:
        """Stores the bytes of a Binary."""
        self._db.execute("INSERT OR REPLACE INTO blob (id, content) VALUES (?,?)", (id, content))

    def blob(self, id: str) -> bytes | None:
        """The bytes of a Binary."""
        row = self._db.execute("SELECT content FROM blob WHERE id=?", (id,)).fetchone()
        return bytes(row[0]) if row else None

    def _to_history(self, old: Stored) -> None:
        self._db.execute(
            "INSERT INTO past (rid, version, updated, deleted, content) VALUES (?,?,?,?,?)",
            (old.rid, old.version, old.updated, int(old.deleted), old.content),
        )

    def _index(self, rid: int, project: str, resource_type: str, rows: Sequence[IndexRow]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO search_index (rid, key, value, system, high) VALUES (?,?,?,?,?)",
            [(rid, self.key(project, resource_type, r.parameter), r.value, r.system, r.high) for r in rows],
        )


def _stored(row: tuple[Any, ...]) -> Stored:
    rid, project, type_, id_, version, updated, deleted, content = row
    return Stored(rid, project, type_, id_, version, updated, bool(deleted), content)
