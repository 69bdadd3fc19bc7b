"""A database of the sync: an SQLite file for one machine, or a PostgreSQL schema that several machines share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bot_layer.errors import TransientError

Row = Sequence[Any]


class Change:
    """One transaction. The parameter placeholder is ``?``."""

    def __init__(self, connection: sa.Connection, *, is_shared: bool) -> None:
        self._connection = connection
        self._is_shared = is_shared

    def run(self, statement: str, values: Row = ()) -> list[Row]:
        """Run a statement and return its rows, if any."""
        result = self._connection.exec_driver_sql(self._adapted(statement), tuple(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    def many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement for each row; on a shared database in sorted order, so that two machines that write the same
        rows do not deadlock."""
        values = [tuple(row) for row in rows]
        if self._is_shared:
            values.sort(key=lambda row: [str(each) for each in row])
        if values:
            self._connection.exec_driver_sql(self._adapted(statement), values)

    def has_column(self, table: str, column: str) -> bool:
        """True if a table has a column, which an earlier release may not have created."""
        return column in [each["name"] for each in sa.inspect(self._connection).get_columns(table)]

    def _adapted(self, statement: str) -> str:
        return statement.replace("?", "%s").replace("BLOB", "BYTEA") if self._is_shared else statement


class Database:
    """An open database with its tables. Thread-safe.

    Opening raises OSError or an error of sqlalchemy, later use the error that ``unusable`` makes of its cause's name.
    """

    def __init__(
        self,
        set_up: Callable[[Change], None],
        unusable: Callable[[str], TransientError],
        *,
        path: Path | None = None,
        url: str = "",
        schema: str = "",
        survives_power_failure: bool = False,
    ) -> None:
        self._unusable = unusable
        self._is_shared = bool(url)
        # SQLite has one connection, which one thread uses at a time.
        self._turn = nullcontext() if url else threading.RLock()
        self._engine = _postgres(url, schema) if url else _sqlite(path, survives_power_failure)
        try:
            self._set_up(set_up, schema)
        except (sa.exc.DatabaseError, UnicodeDecodeError) as fault:
            if path is None or not _is_damage(fault):
                raise
            # The file is damaged or not an SQLite file: recreate it, because it is only a cache.
            self._engine.dispose()
            delete_files(path)
            self._engine = _sqlite(path, survives_power_failure)
            self._set_up(set_up, schema)

    def _set_up(self, set_up: Callable[[Change], None], schema: str) -> None:
        with self._transaction() as change:
            if self._is_shared:
                # If two machines start at once, both would find no tables, and one would fail.
                change.run("SELECT pg_advisory_xact_lock(hashtext(?))", (schema,))
                change.run(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            set_up(change)

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """A transaction, which is rolled back on an exception; TransientError if the database fails."""
        try:
            with self._transaction() as change:
                yield change
        except sa.exc.DBAPIError as fault:
            raise self._unusable(type(fault.orig).__name__) from fault

    @contextmanager
    def _transaction(self) -> Iterator[Change]:
        with self._turn, self._engine.begin() as connection:
            yield Change(connection, is_shared=self._is_shared)

    def read(self, query: str, values: Row = ()) -> list[Row]:
        """The rows of a query."""
        with self.changing() as change:
            return change.run(query, values)

    def close(self) -> None:
        """Close every connection."""
        with self._turn:
            self._engine.dispose()


def _is_damage(fault: Exception) -> bool:
    """True if an SQLite file can't be used whatever one waits for, unlike one that is locked or on a full disk."""
    if not isinstance(fault, sa.exc.OperationalError):
        return True  # also for a table's text that can't be decoded
    # An unknown file format, or tables with other columns. A column may just have been added by another process.
    is_error = getattr(fault.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return is_error and "duplicate column" not in str(fault.orig)


def delete_files(path: Path) -> None:
    """Delete an SQLite file and the files beside it."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _sqlite(path: Path | None, survives_power_failure: bool) -> sa.Engine:
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)  # also for an earlier release's file: it contains patients' data

    def connect() -> sqlite3.Connection:
        # Without a path, a temporary file that is deleted with the process.
        base = sqlite3.connect(path or "", check_same_thread=False, timeout=30)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute(f"PRAGMA synchronous={'FULL' if survives_power_failure else 'NORMAL'}")
        return base

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.StaticPool, hide_parameters=True)


def _postgres(url: str, schema: str) -> sa.Engine:
    parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(parsed, pool_size=8, max_overflow=24, pool_pre_ping=True, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _choose(connection: Any, _record: Any) -> None:
        connection.execute(f'SET search_path TO "{schema}"')
        connection.commit()

    return engine
