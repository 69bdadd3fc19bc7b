"""The hosts of one database: each sends heartbeats, and another one takes over the runs of a host that is silent.

A run is bound to the host that began it. Every host calls ``take_over`` a few times within the limit, in any thread,
and ``leave`` at its end.

Exactly one living host releases the runs of a silent host: it claims that host's row by a conditional update. If the
claimer dies too, its claim becomes silent, and another host takes it. A silent host is not always dead: one that was
stopped, or lost the database, for longer than the limit during a step may still finish that step while another host
repeats it. Steps must be safe to repeat. https://docs.dbos.dev/production/workflow-recovery
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from bot_layer.host import storage

TABLE: Final = sa.Table(
    "bot_hosts",
    sa.MetaData(),
    # Always this value: databases of earlier releases have the column as a part of the key.
    sa.Column("application", sa.String(200), primary_key=True, default="bot-host"),
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("cron", sa.Boolean, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
)


@dataclass(frozen=True)
class Host:
    """One row of the table: the last heartbeat, and since when there was no gap between heartbeats (seconds)."""

    id: str
    beat: float
    since: float
    cron: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Work:
    """The runs of hosts: ``holders`` gives the ids of hosts that have some, ``release`` frees those of given hosts."""

    holders: Callable[[], Iterable[str | None]]
    release: Callable[[list[str]], object]


def is_silent(other: Host, me: Host, *, now: float, limit: float) -> bool:
    """True if a host sent no heartbeat for longer than the limit, and this host watched all that time without a gap.

    So no host counts as dead because the database was away, or because this host has just started. A heartbeat in the
    future was written before the clock was set back, and is ignored.
    """
    beat = other.beat if other.beat <= now + limit else me.since
    return other.gone or now - max(beat, me.since) > limit


def hosts(engine: sa.Engine) -> list[Host]:
    """The hosts of a database, including those that signed off."""
    with engine.connect() as connection:
        rows = connection.execute(TABLE.select().order_by(TABLE.c.id))
        return [Host(row.id, row.beat, row.since, row.cron, row.gone) for row in rows]


class Membership:
    """One host among those of its database. ``limit`` is how many seconds of silence mean that a host is dead."""

    def __init__(self, database_url: str, host_id: str, *, limit: float, work: Work) -> None:
        self.id, self._limit, self._work = host_id, limit, work
        self._engine = storage.open_engine(database_url, TABLE, seconds=storage.PATIENT_SECONDS)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def now(self) -> datetime:
        """The time of the database, so that a host with a wrong clock does not take others for dead."""
        return storage.time_of(self._engine)

    def take_over(self, now: datetime, *, cron: bool = False, alone: bool = False) -> list[Host]:
        """Send a heartbeat and release the runs of silent hosts; return these hosts as they were.

        With ``alone`` no other host can be alive, so there is no wait. A host that has runs and never sent a
        heartbeat (an earlier release, or killed before its first) is watched from now on.
        """
        self.beat(now, cron=cron)
        instant = now.timestamp()
        known = {host.id: host for host in hosts(self._engine)}
        for holder in sorted({each for each in self._work.holders() if each} - set(known)):
            known[holder] = Host(holder, instant, instant)
            self._insert(known[holder])
        me, taken = known.pop(self.id), []
        for other in known.values():
            silent = alone or is_silent(other, me, now=instant, limit=self._limit)
            if silent and self._claim(other, instant):
                self._work.release([other.id])
                self._forget(other.id, instant)
                taken.append(other)
        return taken

    def beat(self, now: datetime, *, cron: bool = False) -> None:
        """Send a heartbeat and nothing else; after a gap this host starts to watch the others again."""
        instant = now.timestamp()
        watched = sa.and_(TABLE.c.gone.is_(False), TABLE.c.beat.between(instant - self._limit, instant + self._limit))
        since = sa.case((watched, TABLE.c.since), else_=instant)
        update = TABLE.update().where(TABLE.c.id == self.id)
        with self._engine.begin() as connection:
            known = connection.execute(update.values(beat=instant, since=since, cron=cron, gone=False)).rowcount
        if not known:
            self._insert(Host(self.id, instant, instant, cron))

    def living(self, now: datetime) -> list[Host]:
        """The other hosts that are not silent."""
        instant, known = now.timestamp(), {host.id: host for host in hosts(self._engine)}
        me = known.pop(self.id, Host(self.id, instant, instant))
        return [host for host in known.values() if not is_silent(host, me, now=instant, limit=self._limit)]

    def leave(self) -> None:
        """Sign off: this host runs nothing any more, and others take over what is left at once."""
        with self._engine.begin() as connection:
            connection.execute(TABLE.update().where(TABLE.c.id == self.id).values(gone=True, cron=False))

    def _insert(self, host: Host) -> None:
        with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:  # another host was quicker
            connection.execute(TABLE.insert().values(**vars(host)))

    def _claim(self, other: Host, instant: float) -> bool:
        """True for exactly one host: the row is still as it read it. From now on the claim counts as a heartbeat."""
        unchanged = (TABLE.c.id == other.id, TABLE.c.beat == other.beat, TABLE.c.gone.is_(other.gone))
        with self._engine.begin() as connection:
            claim = TABLE.update().where(*unchanged).values(beat=instant, gone=False, cron=False)
            return connection.execute(claim).rowcount == 1

    def _forget(self, host_id: str, instant: float) -> None:
        """Delete a claimed row, unless its host has sent a heartbeat since."""
        with self._engine.begin() as connection:
            connection.execute(TABLE.delete().where(TABLE.c.id == host_id, TABLE.c.beat == instant))
