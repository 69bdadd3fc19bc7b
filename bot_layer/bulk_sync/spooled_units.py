"""What is written together: whole patients, about a hundred resources at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of
from bot_layer.bulk_sync.rules.write_order import group_of, waits
from bot_layer.bulk_sync.state.spool import Spooled

ENOUGH: Final = 100  # resources: another patient begins another unit
_MOST: Final = 1000  # of one patient
_MOST_BYTES: Final = 4_000_000


@dataclass(frozen=True)
class Unit:
    """Resources that one worker writes. ``after_all``: only when everything before it was written."""

    place: str  # of its last resource
    resources: list[Resource] = field(repr=False)
    after_all: bool = False


def units(spooled: Iterable[Spooled]) -> Iterator[Unit]:
    """The spool in units, in order. A patient is divided only if there is too much of one to be held in memory."""
    held: list[Spooled] = []
    size = 0
    group, after_all = "", True
    for each in spooled:
        now = group_of(each.place)
        changed = bool(held) and now != group
        cut = changed and (len(held) >= ENOUGH or waits(each.place) or waits(held[-1].place))
        divided = not changed and (len(held) >= (ENOUGH if waits(each.place) else _MOST) or size > _MOST_BYTES)
        if held and (cut or divided):
            yield _unit(held, after_all)
            # The levels of what belongs to no patient come one after the other, as do the parts of one patient.
            after_all = (changed and (waits(each.place) or waits(held[-1].place))) or (
                not changed and not waits(each.place)
            )
            held, size = [], 0
        held.append(each)
        size += len(each.body)
        group = now
    if held:
        yield _unit(held, after_all)


def _unit(held: list[Spooled], after_all: bool) -> Unit:
    return Unit(held[-1].place, resources_of(held), after_all)


def resources_of(spooled: Iterable[Spooled]) -> list[Resource]:
    """The same resources, parsed."""
    return [resource_of(orjson.loads(each.body), raw=each.body) for each in spooled]
