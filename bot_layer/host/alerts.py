"""Alerts: the host checks its state regularly, and sends each alert once when it begins and once when it ends.

Open alerts are stored in the inbox's database, so only one of several hosts sends, and a restart repeats nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa
from dbos import error

from bot_layer.codes import advice
from bot_layer.errors import BotError
from bot_layer.host import storage
from bot_layer.host.alert_channels import AlertSettings, Message
from bot_layer.host.history import RUNS, History
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.rules import alerts as rules
from bot_layer.host.rules.alerts import State

_TABLE: Final = sa.Table(
    "bot_alerts",
    sa.MetaData(),
    sa.Column("key", sa.String(300), primary_key=True),
    sa.Column("text", sa.String(1000), nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)

_T = TypeVar("_T")
Syncs = Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Sources:
    """What a host checks. ``syncs`` returns the problem with each practice's sync, by name."""

    dead: Callable[[], Mapping[tuple[str, str], int]]
    history: History
    occurrences: Occurrences
    syncs: Syncs = field(default=dict)

    def state(self, now: float) -> State:
        """The current state of the host."""
        counts = self.occurrences.of_an_hour()
        refused = self._read("refusals", lambda: self._refused(now))
        if refused is not None:
            refused = {**refused, "-": counts["refused"]}
        return State(
            self._read("dead letters", self.dead),
            refused,
            self._read("the sync's health", self.syncs),
            counts["silent"],
            counts["missed"],
        )

    def _refused(self, now: float) -> Mapping[str, int]:
        return {bot: hour["refused"] for bot, (hour,) in self.history.days(RUNS, [now - _HOUR]).items()}

    @staticmethod
    def _read(what: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except (BotError, sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            code = fault.code if isinstance(fault, BotError) else type(fault).__name__
            _log.warning("Alerts: %s could not be read: %s", what, code)
            return None


class Alerts:
    """The alerts of one database."""

    def __init__(self, database_url: str, settings: AlertSettings, sources: Sources) -> None:
        self._settings, self._sources = settings, sources
        self._engine = storage.open_engine(database_url, _TABLE)

    def look(self, now: float) -> None:
        """Check once, and send the alerts that begin or end."""
        state = self._sources.state(now)
        current = rules.alerts(state, refusals=self._settings.refusals, advice=partial(advice, "dead"))
        with self._engine.connect() as connection:
            rows = {row.key: row for row in connection.execute(_TABLE.select())}
        found = rules.changes({key: row.seen for key, row in rows.items()}, current, state, now=now)
        if found.continuing:
            with self._engine.begin() as connection:
                connection.execute(_TABLE.update().where(_TABLE.c.key.in_(found.continuing)).values(seen=now))
        for key in sorted(found.begun):
            if self._insert(key, current[key], now) and not self._send(Message(key, current[key])):
                self._delete(key, now)  # no channel accepted it: the next check tries again
        for key in sorted(found.ended):
            if self._delete(key, rows[key].seen):
                self._send(Message(key, rows[key].text, is_over=True))

    def repeat(self, stopped: threading.Event, clock: Callable[[], float] = time.time) -> None:
        """Check regularly until the host stops."""
        while not stopped.wait(self._settings.seconds):
            try:
                self.look(clock())
            except sa.exc.SQLAlchemyError as fault:
                _log.warning("No alerts: %s", type(fault).__name__)
        self._engine.dispose()

    def _send(self, message: Message) -> bool:
        """Send through every channel; True if at least one accepted the message, or no channel is configured."""
        _log.warning("%s", message.line)
        is_sent = not self._settings.channels
        for channel in self._settings.channels:
            try:
                channel.send(message)
                is_sent = True
            except BotError as fault:
                _log.error("An alert was not delivered by %s: %s", type(channel).__name__, fault.code)
        return is_sent

    def _insert(self, key: str, text: str, now: float) -> bool:
        """Store a new alert; True on exactly one host."""
        try:
            with self._engine.begin() as connection:
                connection.execute(_TABLE.insert().values(key=key, text=text[:1000], seen=now))
        except sa.exc.IntegrityError:
            return False
        return True

    def _delete(self, key: str, seen: float) -> bool:
        """Delete an alert; True on exactly one host, and only if no host has seen the alert since ``seen``."""
        with self._engine.begin() as connection:
            return connection.execute(_TABLE.delete().where(_TABLE.c.key == key, _TABLE.c.seen == seen)).rowcount == 1
