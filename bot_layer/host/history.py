"""What the bots did in the last two weeks: one small record for each run, in the inbox's database or in memory.

A record contains names, codes and actions that the bots define, and times. It contains no input, answer or resource id.
Operations are recorded only here; events are also runs of the inbox, with the same id. If the inbox has a key, the
recordings of failed runs are kept too, encrypted.
"""

from __future__ import annotations

import base64
import logging
import os
import queue
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

import sqlalchemy as sa

from bot_layer.errors import BotError, InputError, ReviewNeeded
from bot_layer.fhir.json import Json
from bot_layer.host import storage, takeover
from bot_layer.sealing import Seal

KEEP_DAYS: Final = 15
FAILED: Final = ("failed", "dead")
OPERATION: Final = "operation"
RUNS: Final = (OPERATION, "event")
HEALTH: Final = "health"  # of a practice's bulk sync, checked regularly
_MOST_ROWS: Final = 500_000
_MOST_PENDING: Final = 10_000
_MOST_RECORDINGS_PENDING: Final = 20
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_TABLE: Final = sa.Table(
    "bot_history",
    sa.MetaData(),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("bot", sa.String(100), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("ms", sa.Double, nullable=False),
)
_RECORDINGS: Final = sa.Table(
    "bot_recordings",
    sa.MetaData(),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("sealed", sa.Text, nullable=False),
)
_MOST: Final = {_TABLE: _MOST_ROWS, _RECORDINGS: 200}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One finished run: ``state`` is done, refused, failed (an operation) or dead (an event); ``at`` is in seconds."""

    id: str
    at: float
    bot: str
    kind: str
    state: str
    code: str = ""
    action: str = ""
    ms: float = 0.0


@dataclass(frozen=True)
class Figures:
    """The runs of one bot since an instant; ``median`` and ``slowest`` are milliseconds, ``last`` is seconds."""

    calls: int
    refused: int
    failed: int
    median: float
    slowest: float
    last: float


def new_id() -> str:
    """An id of sixteen characters."""
    return base64.b32encode(os.urandom(10)).decode().lower()


def word(text: object) -> str:
    """The text if it has the form of a code, else an empty string: a bot or a partner may write anything."""
    return text if isinstance(text, str) and _WORD.fullmatch(text) else ""


def state_of(error: BotError | None) -> str:
    """How an operation ended: ``refused`` if its caller or a person must act."""
    if error is None:
        return "done"
    return "refused" if isinstance(error, InputError | ReviewNeeded) else "failed"


class History:
    """The records of one database, or only of this process. Writing never blocks a caller."""

    def __init__(self, database_url: str | None = None, key: str | None = None) -> None:
        self.lasting = database_url is not None
        self.key = key if database_url else None
        self._database_url = database_url
        self._pending: queue.Queue[tuple[sa.Table, Json]] = queue.Queue(_MOST_PENDING)
        self._opening, self._starting = threading.Lock(), threading.Lock()
        self._writer: threading.Thread | None = None
        if database_url is None:
            _ = self._engine  # all threads must share one database in memory

    @cached_property
    def _engine(self) -> sa.Engine:
        """Opened at first use: at start, the inbox checks first whether its database can be used."""
        with self._opening:  # not the lock of a caller that adds a record: a locked database takes long to open
            if self._database_url:
                tables = (_TABLE, _RECORDINGS)
                return storage.open_engine(self._database_url, *tables, seconds=storage.PATIENT_SECONDS)
            return _memory()

    def add(self, entry: Entry) -> None:
        """Queue a record for writing; it replaces one with the same id. It is dropped if too many are pending."""
        self._put(_TABLE, asdict(entry))

    def keep(self, run_id: str, at: float, recording: Json | None) -> None:
        """Queue a run's recording to be encrypted and stored; only with a key, and not while too many are pending."""
        if self.key and recording is not None and self._pending.qsize() < _MOST_RECORDINGS_PENDING:
            self._put(_RECORDINGS, {"id": run_id, "at": at, "recording": recording})

    def recording(self, run_id: str) -> Json | None:
        """The recording of a run; None if there is none, or it was encrypted with another key."""
        if not self.key:
            return None
        with self._engine.connect() as connection:
            table = _RECORDINGS
            sealed = connection.execute(sa.select(table.c.sealed).where(table.c.id == run_id)).scalar()
        return None if sealed is None else Seal(self.key).open_json(sealed)

    def _put(self, table: sa.Table, row: Json) -> None:
        with self._starting:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="history", daemon=True)
                self._writer.start()
        with suppress(queue.Full):
            self._pending.put_nowait((table, row))

    def flush(self) -> None:
        """Wait until every record is written or rejected."""
        self._pending.join()

    def close(self) -> None:
        """Write what is pending and close the connections."""
        self.flush()
        self._engine.dispose()

    def entries(
        self,
        *,
        kind: str,
        bot: str | None = None,
        state: str | None = None,
        code: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> Iterator[Entry]:
        """The newest records of a kind."""
        wanted = {"kind": kind, "bot": bot, "state": state, "code": code}
        chosen = [_TABLE.c[name] == value for name, value in wanted.items() if value is not None]
        chosen += [_TABLE.c.at >= since.timestamp()] if since else []
        with self._engine.connect() as connection:
            rows = connection.execute(_TABLE.select().where(*chosen).order_by(_TABLE.c.at.desc()).limit(limit))
            yield from [Entry(**row._mapping) for row in rows]

    def find(self, prefix: str) -> list[Entry]:
        """At most two records whose id starts with ``prefix``."""
        chosen = _TABLE.select().where(_TABLE.c.id.startswith(prefix, autoescape=True)).limit(2)
        with self._engine.connect() as connection:
            return [Entry(**row._mapping) for row in connection.execute(chosen)]

    def hosts(self) -> list[takeover.Host]:
        """The hosts of the database, with their last heartbeats."""
        return [host for host in takeover.hosts(self._engine) if not host.gone]

    def days(self, kinds: Sequence[str], starts: Sequence[float]) -> dict[str, list[Counter[str]]]:
        """For each bot and each day (given by its start), the number of records of these kinds by state."""
        day = sa.case(*((_TABLE.c.at >= start, number) for number, start in reversed(list(enumerate(starts)))))
        counted = (
            sa.select(_TABLE.c.bot, _TABLE.c.state, day.label("day"), sa.func.count().label("runs"))
            .where(_TABLE.c.at >= starts[0], _TABLE.c.kind.in_(kinds))
            .group_by(_TABLE.c.bot, _TABLE.c.state, sa.text("day"))
        )
        found: dict[str, list[Counter[str]]] = defaultdict(lambda: [Counter() for _ in starts])
        with self._engine.connect() as connection:
            for row in connection.execute(counted):
                found[row.bot][row.day][row.state] += row.runs
        return found

    def codes(self, since: float) -> Counter[tuple[str, str]]:
        """The number of runs that ended since an instant, by state and code."""
        chosen = (_TABLE.c.at >= since, _TABLE.c.kind.in_(RUNS))
        counted = sa.select(_TABLE.c.state, _TABLE.c.code, sa.func.count()).where(*chosen).group_by("state", "code")
        with self._engine.connect() as connection:
            return Counter({(state, code): runs for state, code, runs in connection.execute(counted)})

    def figures(self, since: float) -> dict[str, Figures]:
        """The figures of each bot that ran since an instant."""
        of, ms = sa.func, _TABLE.c.ms
        chosen = (_TABLE.c.at >= since, _TABLE.c.kind.in_(RUNS))
        counted = (
            sa.select(
                _TABLE.c.bot,
                of.count().label("calls"),
                of.sum(sa.case((_TABLE.c.state == "refused", 1), else_=0)).label("refused"),
                of.sum(sa.case((_TABLE.c.state.in_(FAILED), 1), else_=0)).label("failed"),
                of.max(ms).label("slowest"),
                of.max(_TABLE.c.at).label("last"),
            )
            .where(*chosen)
            .group_by(_TABLE.c.bot)
            .order_by(_TABLE.c.bot)
        )
        found = {}
        with self._engine.connect() as connection:
            for row in connection.execute(counted).all():
                sorted_ms = sa.select(ms).where(_TABLE.c.bot == row.bot, *chosen).order_by(ms)
                median = connection.execute(sorted_ms.offset((row.calls - 1) // 2).limit(1)).scalar_one()
                found[row.bot] = Figures(row.calls, row.refused, row.failed, median, row.slowest, row.last)
        return found

    def sweep(self, now: float) -> None:
        """Delete records that are too old or exceed the limit."""
        with self._engine.begin() as connection:
            for table, most in _MOST.items():
                _trim(connection, table, most, now - KEEP_DAYS * 86_400)

    def _write(self) -> None:
        while True:
            batch = [self._pending.get()]
            with suppress(queue.Empty):
                while len(batch) < 500:
                    batch.append(self._pending.get_nowait())
            try:
                for kept in (_TABLE, _RECORDINGS):
                    rows = [row for table, row in batch if table is kept]
                    self._store(kept, {row["id"]: self._sealed(row) if kept is _RECORDINGS else row for row in rows})
            except sa.exc.SQLAlchemyError as fault:
                _log.warning("%d runs are missing in the history: %s", len(batch), type(fault).__name__)
            for _ in batch:
                self._pending.task_done()

    def _sealed(self, row: Json) -> Json:
        return {"id": row["id"], "at": row["at"], "sealed": Seal(self.key).close_json(row["recording"])}

    def _store(self, table: sa.Table, rows: dict[str, Json]) -> None:
        if rows:
            with self._engine.begin() as connection:
                connection.execute(table.delete().where(table.c.id.in_(list(rows))))
                connection.execute(table.insert(), list(rows.values()))
                if table is _RECORDINGS:
                    _trim(connection, table, _MOST[table])


def _trim(connection: sa.Connection, table: sa.Table, most: int, oldest: float = 0.0) -> None:
    """Delete all but the ``most`` newest rows, and all rows before ``oldest``."""
    newest = sa.select(table.c.at).order_by(table.c.at.desc()).offset(most).limit(1)
    limit = connection.execute(newest).scalar() or 0.0
    connection.execute(table.delete().where((table.c.at <= limit) | (table.c.at < oldest)))


def _memory() -> sa.Engine:
    """A database in memory with one connection, used by one thread at a time."""
    engine = sa.create_engine(
        "sqlite://",
        poolclass=sa.QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    for table in (_TABLE, _RECORDINGS):
        table.create(engine)
    return engine
