"""The hosts of one database: each says regularly that it lives; of one that fell silent, another takes the runs over.

A run is bound to the host that began it. Every host calls ``take_over`` a few times within the limit, in any thread,
and ``leave`` at its end. This module knows nothing of events: whatever runs on DBOS, or on anything that can say who
holds its work (``Work``), can use it.

What is certain: the runs of a silent host are let go of by exactly one living host, which claims its row of the table
by a conditional update. Where the claimer dies too, its claim falls silent, and to another one. What is not: that a
silent host is dead. One that was stopped, or cut off from the database, for longer than the limit in the middle of a
step may still end that step while another host repeats it. Steps must bear that.
https://docs.dbos.dev/production/workflow-recovery
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from dbos import DBOS

APPLICATION: Final = "bot-host"
_TABLE: Final = sa.Table(
    "bot_hosts",
    sa.MetaData(),
    sa.Column("application", sa.String(200), primary_key=True),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("cron", sa.Boolean, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
)


@dataclass(frozen=True)
class Host:
    """One host as the table has it: its last heartbeat, and since when it has beaten without a gap (seconds)."""

    id: str
    beat: float
    since: float
    cron: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Work:
    """What hosts hold: the ids of those that hold some, and how what they hold is let go of for the living."""

    holders: Callable[[], Iterable[str | None]]
    release: Callable[[list[str]], object]


def _holders() -> Iterable[str | None]:
    return {run.executor_id for run in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)}


DBOS_RUNS: Final = Work(_holders, DBOS._recover_pending_workflows)


def is_silent(other: Host, me: Host, *, now: float, limit: float) -> bool:
    """True once a host has said nothing for longer than the limit, all of which this host has watched without a gap.

    After an outage of the database, or a start, nobody is judged by what nobody could have said or heard.
    """
    return other.gone or now - max(other.beat, me.since) > limit


def take_over(
    database: sa.Engine | str,
    executor_id: str,
    *,
    now: datetime,
    limit: float,
    cron: bool = False,
    alone: bool = False,
    application: str = APPLICATION,
    work: Work = DBOS_RUNS,
) -> list[str]:
    """Say that this host lives, and let go of the runs of those that fell silent; the ids of these.

    ``alone`` says that no other host can be alive, so that nobody is waited for. A host that holds runs and never said
    a word (an earlier release, or dead before its first) is watched from now on.
    """
    instant = now.timestamp()
    with _opened(database) as engine:
        beat(engine, executor_id, now=now, limit=limit, cron=cron, application=application)
        known = {host.id: host for host in _hosts(engine, application)}
        for holder in sorted({each for each in work.holders() if each} - set(known)):
            known[holder] = Host(holder, instant, instant)
            _insert(engine, application, known[holder])
        me, taken = known.pop(executor_id), []
        for other in known.values():
            silent = alone or is_silent(other, me, now=instant, limit=limit)
            if silent and _claim(engine, application, other, instant):
                work.release([other.id])
                _forget(engine, application, other.id, instant)
                taken.append(other.id)
        return taken


def beat(
    database: sa.Engine | str,
    executor_id: str,
    *,
    now: datetime,
    limit: float,
    cron: bool = False,
    application: str = APPLICATION,
) -> None:
    """Say that this host lives, and no more than that; after a gap its watch over the others begins anew."""
    instant = now.timestamp()
    watched = sa.and_(_TABLE.c.gone.is_(False), _TABLE.c.beat >= instant - limit)
    since = sa.case((watched, _TABLE.c.since), else_=instant)
    update = _TABLE.update().where(*_is(application, executor_id))
    with _opened(database) as engine:
        with engine.begin() as connection:
            known = connection.execute(update.values(beat=instant, since=since, cron=cron, gone=False)).rowcount
        if not known:
            _insert(engine, application, Host(executor_id, instant, instant, cron))


def living(
    database: sa.Engine | str, executor_id: str, *, now: datetime, limit: float, application: str = APPLICATION
) -> list[Host]:
    """The other hosts that are not silent."""
    with _opened(database) as engine:
        hosts = _hosts(engine, application)
    instant = now.timestamp()
    me = next((host for host in hosts if host.id == executor_id), Host(executor_id, instant, instant))
    return [host for host in hosts if host.id != executor_id and not is_silent(host, me, now=instant, limit=limit)]


def leave(database: sa.Engine | str, executor_id: str, *, application: str = APPLICATION) -> None:
    """Say that this host ends, and runs nothing any more: what it leaves is taken over without a wait."""
    with _opened(database) as engine, engine.begin() as connection:
        connection.execute(_TABLE.update().where(*_is(application, executor_id)).values(gone=True, cron=False))


@contextmanager
def _opened(database: sa.Engine | str) -> Iterator[sa.Engine]:
    if isinstance(database, sa.Engine):
        yield database
        return
    engine = open_engine(database)
    try:
        yield engine
    finally:
        engine.dispose()


def open_engine(url: str) -> sa.Engine:
    """The database of a URL as DBOS writes it, with the table of its hosts."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": 30})  # a busy file is waited for, as DBOS does
    else:
        url_of_driver = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url_of_driver, pool_size=1, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    with suppress(sa.exc.DBAPIError):  # another host made it in this moment; else the first use tells what is wrong
        _TABLE.create(engine, checkfirst=True)
    return engine


def _is(application: str, executor_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return _TABLE.c.application == application, _TABLE.c.id == executor_id


def _hosts(engine: sa.Engine, application: str) -> list[Host]:
    with engine.connect() as connection:
        rows = connection.execute(_TABLE.select().where(_TABLE.c.application == application).order_by(_TABLE.c.id))
        return [Host(row.id, row.beat, row.since, row.cron, row.gone) for row in rows]


def _insert(engine: sa.Engine, application: str, host: Host) -> None:
    values = {"application": application, "id": host.id, "beat": host.beat, "since": host.since}
    with suppress(sa.exc.IntegrityError), engine.begin() as connection:  # another host was quicker
        connection.execute(_TABLE.insert().values(**values, cron=host.cron, gone=host.gone))


def _claim(engine: sa.Engine, application: str, other: Host, instant: float) -> bool:
    """True at one host alone: the row is as that host read it. From now on the claim is as good as a heartbeat."""
    unchanged = (_TABLE.c.beat == other.beat, _TABLE.c.gone.is_(other.gone))
    claim = _TABLE.update().where(*_is(application, other.id), *unchanged)
    with engine.begin() as connection:
        return connection.execute(claim.values(beat=instant, gone=False, cron=False)).rowcount == 1


def _forget(engine: sa.Engine, application: str, executor_id: str, instant: float) -> None:
    """Delete a claimed row, unless its host turned out to live meanwhile."""
    with engine.begin() as connection:
        connection.execute(_TABLE.delete().where(*_is(application, executor_id), _TABLE.c.beat == instant))
