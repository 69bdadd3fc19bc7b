"""Which changes a host may have missed: for which Subscriptions, in which time spans, and in which version.

Medplum sends an event to a bot only once. A search finds what changed while no host answered. A Subscription that is
``off`` sends nothing on purpose, so changes made during that time are not reported either.
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
    """The parts of a bot's Subscription that a search can replace."""

    id: str
    resource_type: str
    query: tuple[tuple[str, str], ...]
    interactions: frozenset[str]
    changed: datetime


@dataclass(frozen=True)
class Span:
    """From ``start`` (inclusive) to ``end`` (exclusive)."""

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
    """Parse a Subscription. Only its first interaction extension counts; without one it reports every change."""
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
    """True if the bot receives both creations and updates, so that they need not be distinguished."""
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
    """The newest version in the span that such an event would have reported, except the bot's own writes."""
    for version in found:
        kind = "create" if version.is_first else "update"
        if span.start <= version.written < span.end and version.author != bot and kind in interactions:
            return version.id
    return None


def author(resource: Json) -> str:
    """Who wrote this version (``Type/id``), from Medplum's extended meta; empty if that is missing."""
    found: Any = (resource.get("meta") or {}).get("author") or {}
    return str(found.get("reference") or "")


def instant(text: str) -> datetime:
    """Parse a FHIR instant."""
    return datetime.fromisoformat(text)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, with adjacent ones merged."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end >= span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined
