"""The relay's calls of the last five minutes, so that no host of this database accepts one twice.

They are stored in the inbox's database, so that they survive a restart and several hosts behind a load balancer share
them. While the database accepts no writes, only this process's memory decides.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from bot_layer.errors import AuthError
from bot_layer.host import storage
from bot_layer.host.rules.relay_signature import WINDOW_SECONDS, Signature

_TABLE: Final = sa.Table(
    "bot_relay_calls",
    sa.MetaData(),
    sa.Column("mac", sa.String(64), primary_key=True),
    sa.Column("until", sa.Double, nullable=False, index=True),
)
_SWEEP_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


@dataclass
class RelayCalls:
    """The calls received, in memory and in a database if there is one."""

    database_url: str | None = None
    _seen: dict[str, float] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _engine: sa.Engine | None = field(default=None, repr=False)
    _swept: float = 0.0

    def require_new(self, signature: Signature, *, now: float) -> None:
        """Raise AuthError for a call that was received before."""
        until = signature.at + WINDOW_SECONDS
        with self._lock:
            while self._seen and next(iter(self._seen.values())) < now:  # the oldest first, not all at each call
                del self._seen[next(iter(self._seen))]
            is_new = signature.mac not in self._seen
            self._seen[signature.mac] = until
        if not is_new or not self._is_new_in_database(signature.mac, until, now):
            raise AuthError("This call of the relay came before.", code="replayed-call")

    def close(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()

    def _is_new_in_database(self, mac: str, until: float, now: float) -> bool:
        if self.database_url is None:
            return True
        try:
            engine = self._opened(self.database_url)
            with engine.begin() as connection:
                connection.execute(_TABLE.insert().values(mac=mac, until=until))
                if now - self._swept >= _SWEEP_SECONDS:
                    self._swept = now
                    connection.execute(_TABLE.delete().where(_TABLE.c.until < now))
        except sa.exc.IntegrityError:
            return False
        except sa.exc.SQLAlchemyError as fault:
            _log.warning("A relay's call is remembered in memory alone: %s", type(fault).__name__)
        return True

    def _opened(self, url: str) -> sa.Engine:
        with self._lock:
            if self._engine is None:
                self._engine = storage.open_engine(url, _TABLE)
        return self._engine
