"""The database of a sync's map: an SQLite file for one machine, or a PostgreSQL schema that several machines share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bot_layer.errors import ConfigError, TransientError

Row = Sequence[Any]


class Change:
    """One transaction. The parameter placeholder is ``?``."""

    def __init__(self, connection: sa.Connection, marker: str) -> None:
        self._connection = connection
        self._marker = marker

    def run(self, statement: str, values: Row = ()) -> list[Row]:
        """Run a statement and return its rows, if any."""
        result = self._connection.exec_driver_sql(statement.replace("?", self._marker), tuple(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    def many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement for each row, in sorted order, so that two machines that write the same rows do not
        deadlock."""
        values = sorted((tuple(row) for row in rows), key=lambda row: [str(each) for each in row])
        if values:
            self._connection.exec_driver_sql(statement.replace("?", self._marker), values)


class SyncDatabase:
    """An open database with its tables. Thread-safe."""

    def __init__(self, tables: Iterable[str], *, path: Path | None = None, url: str = "", schema: str = "") -> None:
        self._postgres = bool(url)
        # SQLite has one connection, which one thread uses at a time.
        self._turn = nullcontext() if self._postgres else threading.RLock()
        try:
            self._engine = _postgres(url, schema) if self._postgres else _sqlite(path)
            self._set_up(list(tables), path, schema)
        except (OSError, sa.exc.OperationalError) as fault:
            raise ConfigError(
                "The map of ids can't be opened: set PF_STATE_DIR to a folder that may be written; a PostgreSQL "
                f"database there, or in BOT_HOST_DATABASE_URL, must answer ({type(fault).__name__}).",
                code="map-unusable",
                missing=["PF_STATE_DIR"],
            ) from fault

    def _set_up(self, tables: list[str], path: Path | None, schema: str) -> None:
        try:
            self._make(tables, schema)
        except sa.exc.DatabaseError as fault:
            if path is None or isinstance(fault, sa.exc.OperationalError):
                raise
            # The file is damaged or not an SQLite file: recreate it, because it is only a cache.
            self._engine.dispose()
            for each in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                each.unlink(missing_ok=True)
            self._engine = _sqlite(path)
            self._make(tables, schema)

    def _make(self, tables: list[str], schema: str) -> None:
        with self._transaction() as change:
            if self._postgres:
                # If two machines start at once, both would find no tables, and one would fail.
                change.run("SELECT pg_advisory_xact_lock(hashtext(?))", (schema,))
                change.run(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            for table in tables:
                change.run(table.replace("BLOB", "BYTEA") if self._postgres else table)

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """A transaction, which is rolled back on an exception; TransientError if the database fails."""
        try:
            with self._transaction() as change:
                yield change
        except sa.exc.DBAPIError as fault:
            raise TransientError(
                "The map of ids can't be used any more: its disk may be full, its file damaged (then delete it), or "
                f"its database unreachable ({type(fault.orig).__name__}).",
                service="map of ids",
                code="map-unusable",
            ) from fault

    @contextmanager
    def _transaction(self) -> Iterator[Change]:
        with self._turn, self._engine.begin() as connection:
            yield Change(connection, "%s" if self._postgres else "?")

    def read(self, query: str, values: Row = ()) -> list[Row]:
        """The rows of a query."""
        with self.changing() as change:
            return change.run(query, values)

    def close(self) -> None:
        """Close every connection."""
        with self._turn:
            self._engine.dispose()


def _sqlite(path: Path | None) -> sa.Engine:
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)  # also for an earlier release's file: it contains the resources that Medplum rejected

    def connect() -> sqlite3.Connection:
        base = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=30)
        base.execute("PRAGMA journal_mode=WAL")
        # What the Task records as done must survive a power failure here too; a commit covers a hundred resources.
        base.execute("PRAGMA synchronous=FULL")
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
