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
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
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


@sa.event.listens_for(sa.Engine, "handle_error")
def _no_connection(context: sa.ExceptionContext) -> None:
    """Treat every connection failure as transient; DBOS does so only for those whose text it recognizes.

    DBOS would take a missing socket or host name for a permanent error, and would abandon the run.
    """
    if context.connection is None and isinstance(context.sqlalchemy_exception, sa.exc.OperationalError):
        context.is_disconnect = True


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
    """An error that says what to do about an unusable database, without the database's own text, which quotes its
    address."""
    if not url.startswith("sqlite"):
        return ConfigError(
            "The inbox's PostgreSQL can't be used: check that it runs, and the address, login and rights in "
            "BOT_HOST_DATABASE_URL.",
            code="inbox-unusable",
        )
    words = str(getattr(fault, "orig", fault))
    if "locked" in words:
        what = "is locked by another program: end that program (a backup, a database browser) and start again."
    elif "not a database" in words or "malformed" in words:
        what = "is damaged: restore it from a backup, or move it away to start with an empty inbox."
    else:
        what = "can't be opened: check that its folder exists and that this user may write there."
    return ConfigError(f"The inbox's file {sa.make_url(url).database} {what}", code="inbox-unusable")


def time_of(engine: sa.Engine) -> datetime:
    """The database's current time: one clock for all its hosts. For SQLite it is this machine's clock."""
    if engine.url.get_backend_name() == "sqlite":
        return datetime.now(UTC)
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.clock_timestamp(type_=sa.DateTime(timezone=True)))).scalar_one()


def write_nothing(engine: sa.Engine) -> None:
    """Take and release the write lock; SQLAlchemyError if the database does not grant it in time."""
    with engine.connect() as connection:
        if engine.url.get_backend_name() == "sqlite":
            connection.exec_driver_sql("PRAGMA schema_version")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("SELECT 1"))
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
    """True once the work is done; False if it takes longer and continues in its thread. Raises what the work raises."""
    done: Future[None] = Future()
    context = copy_context()

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
        return False
    return True


class Probe:
    """Whether the database accepts events (``ok``), checked every two seconds from ``start`` to ``stop``.

    On an idle host the check writes nothing. After an event was not stored (``doubt``), only a successful write counts.
    """

    def __init__(self, url: str) -> None:
        self.ok = True
        self._engine = open_engine(url)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="inbox-probe", daemon=True)

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def doubt(self) -> None:
        """An event was not stored: report the database as unavailable until a write succeeds."""
        self.ok = False

    def stop(self) -> None:
        """Stop checking."""
        self._stopped.set()
        self._thread.join()
        self._engine.dispose()

    def look(self) -> None:
        """Check once, and log a change."""
        try:
            (write_nothing if self.ok else write_something)(self._engine)
        except sa.exc.SQLAlchemyError as fault:
            if self.ok:
                _log.error("The inbox's database takes no events; they run at once: %s", type(fault).__name__)
            self.ok = False
        else:
            if not self.ok:
                _log.warning("The inbox's database takes events again.")
            self.ok = True

    def _repeat(self) -> None:
        while not self._stopped.wait(_PROBE_SECONDS):
            self.look()
