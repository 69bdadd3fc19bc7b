"""Which changes a host may have missed: of which Subscriptions, in which spans of time, and in which version.

Medplum sends an event to a bot once. What changed while no host answered is found by a search. A Subscription that is
``off`` sends nothing on purpose, so what changed meanwhile is not found either.
https://www.medplum.com/docs/subscriptions
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from bot_layer.fhir.json import Json

INTERACTION: Final = "https://medplum.com/fhir/StructureDefinition/subscription-supported-interaction"
_CHANGES: Final = frozenset({"create", "update"})


@dataclass(frozen=True)
class Watched:
    """A Subscription of a bot, as far as a search can stand in for it."""

    id: str
    resource_type: str
    query: tuple[tuple[str, str], ...]
    interactions: frozenset[str]
    changed: datetime


@dataclass(frozen=True)
class Span:
    """From ``start`` up to, without, ``end``."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Version:
    """One version of a resource: who wrote it, when, and whether it is the first."""

    id: str
    author: str
    written: datetime
    is_first: bool


def watched(subscription: Json) -> Watched:
    """A Subscription as a value. Only its first interaction extension counts; one without reports every change."""
    resource_type, _, query = str(subscription.get("criteria") or "").partition("?")
    found = (each.get("valueCode") for each in subscription.get("extension") or () if each.get("url") == INTERACTION)
    interaction = next(found, None)
    return Watched(
        id=str(subscription["id"]),
        resource_type=resource_type,
        query=tuple(parse_qsl(query)),
        interactions=frozenset({str(interaction)}) if interaction else _CHANGES | {"delete"},
        changed=instant(subscription["meta"]["lastUpdated"]),
    )


def covers_changes(one: Watched, all_of_the_bot: Iterable[Watched]) -> bool:
    """True where the bot hears of creations and of updates alike, so that nobody needs to tell them apart."""
    alike = (each for each in all_of_the_bot if (each.resource_type, each.query) == (one.resource_type, one.query))
    return frozenset[str]().union(*(each.interactions for each in alike)) >= _CHANGES


def active_spans(history: Sequence[Json], span: Span) -> list[Span]:
    """The parts of a span in which a Subscription was active, by its versions (newest first)."""
    spans, end = [], span.end
    for version in history:
        start = max(instant(version["meta"]["lastUpdated"]), span.start)
        if version.get("status") == "active" and start < end:
            spans.append(Span(start, end))
        end = min(end, start)
    return _joined(reversed(spans))


def versions(history: Sequence[Json], *, is_whole: bool) -> list[Version]:
    """The versions of a resource, newest first. ``is_whole`` says that the first one is among them."""
    last = len(history) - 1
    return [
        Version(
            id=str(each["meta"].get("versionId", "")),
            author=author(each),
            written=instant(each["meta"]["lastUpdated"]),
            is_first=is_whole and number == last,
        )
        for number, each in enumerate(history)
    ]


def missed(found: Sequence[Version], span: Span, interactions: frozenset[str], *, bot: str) -> str | None:
    """The newest version in the span that such an event would have reported; a bot's own writes are no news to it."""
    for version in found:
        kind = "create" if version.is_first else "update"
        if span.start <= version.written < span.end and version.author != bot and kind in interactions:
            return version.id
    return None


def author(resource: Json) -> str:
    """Who wrote this version (``Type/id``), as Medplum's extended meta says; empty where it does not."""
    found: Any = (resource.get("meta") or {}).get("author") or {}
    return str(found.get("reference") or "")


def instant(text: str) -> datetime:
    """An instant as FHIR writes it."""
    return datetime.fromisoformat(text)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, with those that touch made one."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end >= span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined
