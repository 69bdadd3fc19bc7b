"""The unit that one worker writes at a time: a few complete patients, or a batch of resources without a patient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import orjson

from bot_layer.bulk_sync.rules.ndjson import Resource, resource_of
from bot_layer.bulk_sync.rules.write_order import group_of, waits
from bot_layer.bulk_sync.state.spool import Spooled

ENOUGH: Final = 50  # resources of patients: the next patient starts another unit, so that no worker is idle
SHARED: Final = 100  # resources that belong to no patient
_MOST: Final = 1000  # of one patient
_MOST_BYTES: Final = 4_000_000


@dataclass(frozen=True)
class Unit:
    """Resources that one worker writes. ``after_all``: only after everything before it was written."""

    place: str  # of its last resource
    resources: list[Resource] = field(repr=False)
    after_all: bool = False


def units(spooled: Iterable[Spooled]) -> Iterator[Unit]:
    """The spool in units, in order. A patient is split only if the patient's resources do not fit in memory."""
    patients: list[Spooled] = []
    after_all = True  # the first patients come after the shared resources
    for group, members in groupby(spooled, lambda each: group_of(each.place)):
        if waits(group):
            if patients:
                yield _unit(patients, after_all)
            patients, after_all = [], True
            for number, part in enumerate(_parts(members, SHARED)):
                yield _unit(part, number == 0)
            continue
        for number, part in enumerate(_parts(members, _MOST)):
            if patients and (number or len(patients) >= ENOUGH):
                yield _unit(patients, after_all)
                patients, after_all = [], bool(number)  # the parts of one patient refer to each other
            patients += part
    if patients:
        yield _unit(patients, after_all)


def _parts(spooled: Iterable[Spooled], most: int) -> Iterator[list[Spooled]]:
    """Lists with at most ``most`` resources and a limited number of bytes."""
    part: list[Spooled] = []
    size = 0
    for each in spooled:
        if part and (len(part) >= most or size > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each.body)
    if part:
        yield part


def _unit(spooled: list[Spooled], after_all: bool) -> Unit:
    return Unit(spooled[-1].place, resources_of(spooled), after_all)


def resources_of(spooled: Iterable[Spooled]) -> list[Resource]:
    """The same resources, parsed."""
    return [resource_of(orjson.loads(each.body), raw=each.body) for each in spooled]
