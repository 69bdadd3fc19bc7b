"""Up to which instant the hosts of a database have processed each Subscription's changes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from bot_layer.host import storage

_TABLE: Final = sa.Table(
    "bot_marks",
    sa.MetaData(),
    sa.Column("server", sa.String(300), primary_key=True),
    sa.Column("subscription", sa.String(64), primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)


@dataclass(frozen=True)
class Mark:
    """Every change before ``seen`` has a run; changes before ``since`` are not the host's to process."""

    since: datetime
    seen: datetime


class Marks:
    """The marks of one server, shared by all hosts of a database. Usable until ``close``."""

    def __init__(self, database_url: str, server: str) -> None:
        self._server = server
        self._engine = storage.open_engine(database_url, _TABLE, seconds=storage.PATIENT_SECONDS)

    def get(self, subscription: str) -> Mark | None:
        """A Subscription's mark, or None before its first."""
        with self._engine.connect() as connection:
            row = connection.execute(_TABLE.select().where(*self._is(subscription))).first()
        return None if row is None else Mark(_instant(row.since), _instant(row.seen))

    def put(self, subscription: str, mark: Mark) -> None:
        """Store a mark, unless another host has already advanced it further."""
        values = {"since": mark.since.timestamp(), "seen": mark.seen.timestamp()}
        further = _TABLE.update().where(*self._is(subscription), _TABLE.c.seen <= values["seen"])
        with self._engine.begin() as connection:
            if connection.execute(further.values(**values)).rowcount:
                return
        with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:  # another host has stored one
            connection.execute(_TABLE.insert().values(server=self._server, subscription=subscription, **values))

    def latest(self) -> datetime | None:
        """Up to when the hosts have processed changes of any Subscription; None before the first start."""
        with self._engine.connect() as connection:
            seen = connection.execute(sa.select(sa.func.max(_TABLE.c.seen)).where(_TABLE.c.server == self._server))
            found = seen.scalar()
        return None if found is None else _instant(found)

    def drop(self, subscription: str) -> None:
        """Delete the mark of a Subscription that is no longer active, so that it starts over when it is active
        again."""
        with self._engine.begin() as connection:
            connection.execute(_TABLE.delete().where(*self._is(subscription)))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _is(self, subscription: str) -> tuple[sa.ColumnElement[bool], ...]:
        return _TABLE.c.server == self._server, _TABLE.c.subscription == subscription


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
