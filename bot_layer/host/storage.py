"""Checks of the inbox's database: whether it can be opened at start, and whether it accepts events now.

DBOS waits without limit for a locked or unreachable database. An event must not: if it is not stored within a few
seconds, it runs at once. https://docs.dbos.dev/explanations/system-tables
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bot_layer.errors import ConfigError

STORE_SECONDS: Final = 15.0
PATIENT_SECONDS: Final = 30  # for background work: as long as DBOS waits
_LOCK_SECONDS: Final = 5
_PROBE_SECONDS: Final = 2.0
_NO_SUCH_DATABASE: Final = re.compile(r'database "[^"]*" does not exist')  # DBOS creates it
_TRIAL: Final = sa.Table("bot_trial", sa.MetaData(), sa.Column("data", sa.LargeBinary, nullable=False))
_TRIAL_BYTES: Final = 256 * 1024
_NO_WRITES: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_READ_ONLY: Final = "25006"  # PostgreSQL's read_only_sql_transaction: a standby, or a primary that takes no writes
# Of a write that somebody waits for: it is set when nobody waits any more, and the write must not happen later.
_given_up: Final[ContextVar[threading.Event | None]] = ContextVar("given_up", default=None)
_is_repeated: Final[ContextVar[bool]] = ContextVar("is_repeated", default=True)
_log = logging.getLogger(__name__)


def open_engine(url: str, *tables: sa.Table, seconds: int = _LOCK_SECONDS) -> sa.Engine:
    """The inbox's database, with the given tables; waits at most ``seconds`` for a lock or a connection."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": seconds})
    else:
        url_of_driver = parsed.set(drivername="postgresql+psycopg")
        wait = {"connect_timeout": seconds, "options": f"-c statement_timeout={seconds * 1000}"}
        engine = sa.create_engine(url_of_driver, pool_size=1, pool_pre_ping=True, connect_args=wait)
    for table in tables:
        with suppress(sa.exc.DBAPIError):  # another host just created it; any other fault shows at its first use
            table.create(engine, checkfirst=True)
    return engine


class NotStored(sa.exc.SQLAlchemyError):
    """The database takes no writes now, and DBOS does not repeat this one."""


class ReadOnly(sa.exc.SQLAlchemyError):
    """The PostgreSQL server takes no writes."""


@sa.event.listens_for(sa.Engine, "handle_error")
def _repeat_until_writable(context: sa.ExceptionContext) -> None:
    """Let DBOS repeat what it would give up, except for somebody who waits (``within``, ``unrepeated``).

    DBOS repeats a statement only after an error that it recognizes as a lost connection. After any other one it
    abandons the run, which then counts as running until the next start. So every failed connection, and every database
    that takes no writes, counts as a lost connection, also because a later connection may reach another server.
    """
    is_operational = isinstance(context.sqlalchemy_exception, sa.exc.OperationalError)
    refused = _takes_no_writes(context.original_exception)
    context.is_disconnect = context.is_disconnect or refused or (is_operational and context.connection is None)
    if (refused and _given_up.get() is not None) or (is_operational and not _is_repeated.get()):
        raise NotStored


@sa.event.listens_for(sa.Engine, "begin")
def _not_too_late(_connection: sa.Connection) -> None:
    """Do not let DBOS store an event that runs at once: another host would run it again."""
    given_up = _given_up.get()
    if given_up is not None and given_up.is_set():
        raise NotStored


@contextmanager
def unrepeated() -> Iterator[None]:
    """Within this context, DBOS raises NotStored where it would wait for the database."""
    waiting, repeating = _given_up.set(threading.Event()), _is_repeated.set(False)
    try:
        yield
    finally:
        _given_up.reset(waiting)
        _is_repeated.reset(repeating)


def _takes_no_writes(fault: BaseException | None) -> bool:
    """True for a database that is read-only or full. (DBOS itself repeats after PostgreSQL's ``disk_full``.)"""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF in _NO_WRITES or getattr(fault, "sqlstate", "") == _READ_ONLY


def installation(url: str) -> str:
    """An id for the hosts of one database; a copy of the database elsewhere is another installation."""
    parsed = sa.make_url(url)
    place = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        place = f"{socket.gethostname()} {Path(parsed.database or '').resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def require_usable(url: str) -> None:
    """Raise one ConfigError that says what to do if the database can't be opened."""
    engine = open_engine(url)
    try:
        private_file(engine.url.database if engine.url.get_backend_name() == "sqlite" else None)
        write_nothing(engine)
    except (sa.exc.SQLAlchemyError, OSError) as fault:
        if not _NO_SUCH_DATABASE.search(str(getattr(fault, "orig", ""))):
            raise unusable(url, fault) from fault
    finally:
        engine.dispose()


def unusable(url: str, fault: Exception) -> ConfigError:
    """The ConfigError for a database that can't be used at start."""
    return ConfigError(advice(url, fault), code="inbox-unusable")


def advice(url: str, fault: BaseException) -> str:
    """A sentence that says what to do about a database that can't be used, without the database's own text, which
    quotes its address."""
    cause = getattr(fault, "orig", None) or fault.__cause__ or fault
    if not url.startswith("sqlite"):
        if isinstance(fault, ReadOnly) or _takes_no_writes(cause):
            return (
                "The inbox's PostgreSQL is read-only: make it writable, or set BOT_HOST_DATABASE_URL to the primary "
                "server."
            )
        return (
            "The inbox's PostgreSQL can't be used: check that it runs, and the address, login and rights in "
            "BOT_HOST_DATABASE_URL."
        )
    words = str(cause)
    if "locked" in words or isinstance(cause, TimeoutError):
        what = "is locked by another program: end that program (a backup, a database browser)."
    elif "not a database" in words or "malformed" in words:
        what = "is damaged: restore it from a backup, or move it away to start with an empty inbox."
    elif "unable to open" in words or isinstance(cause, FileNotFoundError):
        what = "can't be opened: check that its folder exists and that this user may write there."
    else:
        what = "can't be written: check that its disk has room, is not read-only, and that this user may write there."
    return f"The inbox's file {sa.make_url(url).database} {what}"


def time_of(engine: sa.Engine) -> datetime:
    """The database's current time: one clock for all its hosts. For SQLite it is this machine's clock."""
    if engine.url.get_backend_name() == "sqlite":
        return datetime.now(UTC)
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.clock_timestamp(type_=sa.DateTime(timezone=True)))).scalar_one()


def write_nothing(engine: sa.Engine) -> None:
    """Take and release the write lock; SQLAlchemyError if the database does not grant it in time, or is read-only."""
    with engine.connect() as connection:
        if engine.url.get_backend_name() == "sqlite":
            connection.exec_driver_sql("PRAGMA schema_version")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif connection.execute(sa.text("SHOW transaction_read_only")).scalar() == "on":
            raise ReadOnly
        connection.rollback()


def write_something(engine: sa.Engine) -> None:
    """Write the size of many events and delete it: a full disk grants the write lock, but stores no data."""
    with engine.begin() as connection:
        _TRIAL.create(connection, checkfirst=True)
        connection.execute(_TRIAL.insert().values(data=os.urandom(_TRIAL_BYTES)))
        connection.execute(_TRIAL.delete())


def private_file(path: str | None) -> None:
    """Create a database file, if missing, that only its owner may read: SQLite gives its journals the same
    permissions."""
    if path and path != ":memory:":
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        Path(path).chmod(0o600)


def within(seconds: float, work: Callable[[], None]) -> bool:
    """True once the work is stored; False if it takes longer: then it is not repeated. Raises what the work raises."""
    done: Future[None] = Future()
    context, given_up = copy_context(), threading.Event()
    context.run(_given_up.set, given_up)

    def run() -> None:
        try:
            context.run(work)
        except BaseException as fault:  # noqa: BLE001  # raised again in the waiting thread
            done.set_exception(fault)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="store", daemon=True).start()
    try:
        done.result(seconds)
    except TimeoutError:
        given_up.set()
        return False
    return True


class Probe:
    """Whether the database accepts events, checked every two seconds from ``start`` to ``stop``.

    ``problem`` says what to do if it does not; else it is empty. On an idle host the check writes nothing. After an
    event was not stored (``doubt``), only a successful write counts. ``then`` runs after each successful check; if it
    raises, the database does not accept events.
    """

    def __init__(self, url: str, then: Callable[[], None] = lambda: None) -> None:
        self.problem = ""
        self._url, self._then = url, then
        self._engine = open_engine(url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="inbox-probe", daemon=True)

    @property
    def ok(self) -> bool:
        """True while events are accepted."""
        return not self.problem

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def doubt(self, fault: BaseException) -> None:
        """An event was not stored: report the database as unavailable until a write succeeds."""
        self._set(self.problem or advice(self._url, fault))

    def stop(self) -> None:
        """Stop checking."""
        self._stopped.set()
        self._thread.join()
        self._engine.dispose()

    def look(self) -> None:
        """Check once, and log a change."""
        try:
            (write_nothing if self.ok else write_something)(self._engine)
            self._then()
        except sa.exc.SQLAlchemyError as fault:
            self._set(advice(self._url, fault))
        else:
            self._set("")

    def _set(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.error("The database takes no events; they run at once. %s", problem)
        elif self.problem and not problem:
            _log.warning("The inbox's database takes events again.")
        self.problem = problem

    def _repeat(self) -> None:
        while not self._stopped.wait(_PROBE_SECONDS):
            self.look()
