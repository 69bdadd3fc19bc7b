"""Alerts: the host checks its state regularly, and sends each alert once when it begins and once when it ends.

Open alerts are stored in the inbox's database, so only one of several hosts sends, and a restart repeats nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import sqlalchemy as sa
from dbos import error

from bot_layer.codes import advice
from bot_layer.errors import BotError
from bot_layer.host import storage
from bot_layer.host.alert_channels import AlertSettings, Message
from bot_layer.host.history import RUNS, History
from bot_layer.host.occurrences import Occurrences
from bot_layer.host.rules import alerts as rules

_TABLE: Final = sa.Table(
    "bot_alerts",
    sa.MetaData(),
    sa.Column("key", sa.String(300), primary_key=True),
    sa.Column("text", sa.String(1000), nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
)
_HOUR: Final = 3600.0
_log = logging.getLogger(__name__)


class Alerts:
    """The alerts of one database. ``dead`` counts dead letters by bot and code; ``syncs`` returns the problem with each
    practice's sync, by name."""

    def __init__(
        self,
        database_url: str,
        settings: AlertSettings,
        *,
        dead: Callable[[], Mapping[tuple[str, str], int]],
        history: History,
        occurrences: Occurrences,
        syncs: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._settings, self._dead, self._history, self._syncs = settings, dead, history, syncs
        self._occurrences = occurrences
        self._engine = storage.open_engine(database_url, _TABLE)

    def look(self, now: float) -> None:
        """Check once, and send the alerts that begin or end."""
        current, unread = self._current(now)
        with self._engine.connect() as connection:
            known = {row.key: row for row in connection.execute(_TABLE.select())}
        if seen := current.keys() & known.keys():
            with self._engine.begin() as connection:
                connection.execute(_TABLE.update().where(_TABLE.c.key.in_(seen)).values(seen=now))
        for key in sorted(current.keys() - known.keys()):
            if self._insert(key, current[key], now) and not self._send(Message(key, current[key])):
                self._delete(key, now)  # no channel accepted it: the next check tries again
        for key in sorted(rules.ended({key: row.seen for key, row in known.items()}, current, unread, now=now)):
            if self._delete(key, known[key].seen):
                self._send(Message(key, known[key].text, is_over=True))

    def _current(self, now: float) -> tuple[dict[str, str], set[str]]:
        """The text of each alert by its key, and the kinds whose state could not be read."""
        counts = self._occurrences.of_an_hour()

        def refusals() -> dict[str, str]:
            days = self._history.days(RUNS, [now - _HOUR])
            refused = {bot: hour["refused"] for bot, (hour,) in days.items()} | {"-": counts["refused"]}
            return rules.refusals(refused, self._settings.refusals)

        found: dict[str, str] = {}
        unread: set[str] = set()
        kinds: Mapping[str, Callable[[], Mapping[str, str]]] = {
            "dead-letters": lambda: rules.dead_letters(self._dead(), partial(advice, "dead")),
            "refusals": refusals,
            "sync": lambda: rules.syncs(self._syncs()),
            "silent-host": lambda: rules.silent_hosts(counts["silent"]),
            "catch-up": lambda: rules.missed_events(counts["missed"]),
        }
        for kind, read in kinds.items():
            try:
                found |= {f"{kind}:{what}": text for what, text in read().items()}
            except (BotError, sa.exc.SQLAlchemyError, error.DBOSException) as fault:
                unread.add(kind)
                code = fault.code if isinstance(fault, BotError) else type(fault).__name__
                _log.warning("Alerts: %s could not be read: %s", kind, code)
        return found, unread

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
