"""Catch-up: finds and queues changes made while no host answered, because Medplum sends an event only once.

For each active Subscription of the host's bots, the database keeps a mark: every change before it has a run. At start
and every few minutes, the host searches for later changes, with an overlap, and queues each version that has no run. A
version that both the Subscription and catch-up report has one run, because both compute the same id. A search does not
find deleted resources.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Final, Protocol

import sqlalchemy as sa
from dbos import error

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.host.admission import trimmed
from bot_layer.host.marks import Mark, Marks
from bot_layer.host.rules import catch_up as rules
from bot_layer.host.rules import inbox
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.rules.catch_up import Span, Watched
from bot_layer.host.rules.inbox import Intake
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import Medplum

OVERLAP: Final = timedelta(minutes=2)  # a change becomes visible when its transaction ends, after its lastUpdated
SETTLE: Final = timedelta(seconds=20)  # the event of a more recent change may still be in transit
PAGE: Final = 100
_CLOCK_STEP: Final = timedelta(seconds=1)  # a server's Date counts whole seconds, its lastUpdated milliseconds
_MOST_WAITING: Final = 500  # more would use up the quota that the runs themselves need
_HOST: Final = ""  # the hosts' own mark: up to when they know which Subscriptions are active
_VERSIONS: Final = 50
_FARTHEST: Final = 1000
_log = logging.getLogger(__name__)


class Queue(Protocol):
    """Where runs are queued: the inbox of this process, or its database used from another process."""

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a run."""

    def enqueue(self, taken: Intake) -> None:
        """Store a run; an existing run with the same id is not changed."""

    def counts(self) -> Mapping[str, int]:
        """How many runs are ``waiting``."""


@dataclass(frozen=True)
class Source:
    """One of the host's bots on the server, and its active Subscriptions."""

    bot: str
    admitted: Admitted
    watched: tuple[Watched, ...]
    inactive: tuple[str, ...]


@dataclass(frozen=True)
class CatchUp:
    """The search for missed changes with one login. ``server`` is the server address that its events carry."""

    bots: Collection
    medplum: Medplum
    server: str
    queue: Queue
    overlap: timedelta = OVERLAP
    settle: timedelta = SETTLE
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)

    def sources(self) -> Iterator[Source]:
        """The deployed bots that have Subscriptions."""
        for bot in (handler.bot for handler in self.bots if handler.bot.watches):
            for found in self.medplum.search("Bot", [("identifier", f"{BOT_IDENTIFIER_SYSTEM}|{bot.identifier}")]):
                project, reference = str((found.get("meta") or {}).get("project") or ""), f"Bot/{found['id']}"
                admitted = Admitted(self.server, project, found["id"], (bot.identifier,))
                listed = self.medplum.search_all("Subscription", [("url", reference), ("_count", str(PAGE))])
                mine = [each for each in listed if (each.get("channel") or {}).get("endpoint") == reference]
                active = tuple(rules.watched(each) for each in mine if each.get("status") == "active")
                inactive = tuple(str(each["id"]) for each in mine if each.get("status") != "active")
                yield Source(bot.name, admitted, active, inactive)

    def start(self, marks: Marks, since: datetime | None = None) -> None:
        """Store the first marks, before the host is ready: at ``since``, or now."""
        for source in self.sources():
            for watched in source.watched:
                self._mark(watched, marks, since)
        if marks.latest() is None:
            marks.put(_HOST, Mark(self.now(), self.now()))

    def run(self, marks: Marks) -> int:
        """Queue what each Subscription missed since its mark, and advance the marks; returns the number of new runs."""
        now, queued = self.now(), 0
        end = now + _CLOCK_STEP - self.settle
        reached = min(end, now)
        for source in self.sources():
            for subscription in source.inactive:
                marks.drop(subscription)
            for watched in source.watched:
                mark = self._mark(watched, marks)
                span = Span(max(mark.since, mark.seen - self.overlap), end)
                for taken, seen in self._missed(source, watched, span):
                    for new in self._new(taken):
                        self.queue.enqueue(new)
                        queued += 1
                    marks.put(watched.id, Mark(mark.since, max(mark.seen, seen)))
                    if self.queue.counts().get("waiting", 0) > _MOST_WAITING:
                        return queued  # the next pass resumes at the mark
                marks.put(watched.id, Mark(mark.since, max(mark.seen, reached)))
        marks.put(_HOST, Mark(reached, reached))
        return queued

    def _mark(self, watched: Watched, marks: Marks, since: datetime | None = None) -> Mark:
        """A Subscription's mark. If it is new or active again, the mark starts at that change; at the first start,
        now."""
        mark = marks.get(watched.id)
        if mark is None:
            latest = marks.latest()
            first = since or (self.now() if latest is None else max(watched.changed, latest))
            mark = Mark(first, first)
            marks.put(watched.id, mark)
        return mark

    def missed(self, since: datetime) -> Iterator[Intake]:
        """The runs missing since an instant, for a manual catch-up."""
        end, shown = self.now() + _CLOCK_STEP, set[str]()
        for source in self.sources():
            for watched in source.watched:
                for taken, _ in self._missed(source, watched, Span(since, end)):
                    new = [each for each in self._new(taken) if each.id not in shown]
                    shown |= {each.id for each in new}  # two Subscriptions may report one version
                    yield from new

    def _new(self, taken: Sequence[Intake]) -> list[Intake]:
        known = self.queue.known([each.id for each in taken])
        return [each for each in taken if each.id not in known]

    def _missed(self, source: Source, watched: Watched, span: Span) -> Iterator[tuple[list[Intake], datetime]]:
        """The versions that a Subscription reported or should have reported, in pages, each with the time up to which
        it is complete."""
        if not watched.interactions & {"create", "update"} or span.start >= span.end:
            return
        bot = f"Bot/{source.admitted.bot_id}"
        is_any = rules.covers_changes(watched, source.watched)
        for active in self._active(watched, span):
            changes = self._changes(watched, active)
            while page := list(islice(changes, PAGE)):
                taken = []
                for resource in page:
                    version = self._version(resource, watched, active, bot=bot, is_any=is_any)
                    if version is not None:
                        reference = f"{resource['resourceType']}/{resource['id']}"
                        taken.append(inbox.change(source.bot, source.admitted, reference, version, kind="catch-up"))
                yield taken, rules.instant(page[-1]["meta"]["lastUpdated"])

    def _active(self, watched: Watched, span: Span) -> list[Span]:
        """The spans in which the Subscription was active: its history is read only if it changed in ``span``."""
        if watched.changed <= span.start:
            return [span]
        history, _ = self._history("Subscription", watched.id)
        return rules.active_spans(history, span)

    def _changes(self, watched: Watched, span: Span) -> Iterator[Json]:
        """The resources last changed in a span, oldest first."""
        order, start = [("_sort", "_lastUpdated"), ("_count", str(PAGE))], span.start
        while True:
            window = [("_lastUpdated", f"ge{_text(start)}"), ("_lastUpdated", f"lt{_text(span.end)}")]
            query = [*watched.query, *window, *order]
            found = list(islice(self.medplum.search_all(watched.resource_type, query), _FARTHEST))
            yield from found
            if len(found) < _FARTHEST:
                return
            start = rules.instant(found[-1]["meta"]["lastUpdated"])  # a server pages no further than 10,000

    def _version(self, resource: Json, watched: Watched, span: Span, *, bot: str, is_any: bool) -> str | None:
        """The version to run; the history is read only if the newest version does not settle it."""
        if is_any and rules.author(resource) != bot:
            return str(resource["meta"].get("versionId", ""))
        history, is_whole = self._history(resource["resourceType"], resource["id"])
        interactions = frozenset({"create", "update"}) if is_any else watched.interactions
        return rules.missed(rules.versions(history, is_whole=is_whole), span, interactions, bot=bot)

    def _history(self, resource_type: str, resource_id: str) -> tuple[list[Json], bool]:
        """The versions, newest first and without deletions, and whether the list is complete."""
        bundle = self.medplum.get(f"fhir/R4/{resource_type}/{resource_id}/_history?_count={_VERSIONS}")
        entries = bundle.get("entry") or []
        return [each["resource"] for each in entries if each.get("resource")], len(entries) < _VERSIONS


def own_server(environ: Mapping[str, str], servers: Sequence[str]) -> str | None:
    """The server of the host's own login, spelled as in its events; None if it is not one of ``servers``."""
    own = trimmed(environ.get("MEDPLUM_BASE_URL") or "")
    return own if own and environ.get("MEDPLUM_CLIENT_ID") and own in map(trimmed, servers) else None


def begin(catch_up: CatchUp, marks: Marks, since: datetime | None) -> None:
    """Store the first marks before the host is ready; if Medplum does not answer, the first pass stores them."""
    try:
        catch_up.start(marks, since)
    except BotError as fault:
        _log.warning("Catch-up could not begin and is tried again: %s", fault.code)


def server_time(server: str) -> datetime:
    """The current time on a server: its ``lastUpdated`` values are compared with its own clock, not with this
    host's."""
    answer = Transport("Medplum").send("GET", f"{server}/healthcheck", path="healthcheck")
    date = answer.headers.get("Date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def repeat(
    catch_up: CatchUp,
    marks: Marks,
    stopped: threading.Event,
    *,
    every: float,
    missed: Callable[[int], None] = lambda _count: None,
) -> None:
    """Catch up now and every ``every`` seconds until the host stops; the next pass retries what failed.

    Only the first pass includes the most recent changes: no host was running to receive their events.
    """
    search = replace(catch_up, settle=timedelta(0))
    while True:
        try:
            queued = search.run(marks)
            search = catch_up
            if queued:
                missed(queued)
                _log.warning("Caught up: %d changes had no run and are queued.", queued)
        except (BotError, sa.exc.SQLAlchemyError, error.DBOSException) as fault:
            code = fault.code if isinstance(fault, BotError) else type(fault).__name__
            _log.warning("Catch-up failed and is tried again in %.0f seconds: %s", every, code)
        if stopped.wait(every):
            return


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
