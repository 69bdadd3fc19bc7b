"""Synthetic practices of any size: the same seed gives the same data, and no person in it is real."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion import chart, directory
from medplum_sandbox.practice_fusion.case import Case
from medplum_sandbox.practice_fusion.make import Make
from medplum_sandbox.practice_fusion.source import Source
from medplum_sandbox.practice_fusion.switches import ALL_TYPES

START: Final = datetime(2024, 1, 1, tzinfo=UTC)


def generate(
    seed: int,
    patients: int,
    *,
    types: Collection[str] = ALL_TYPES,
    outside: int = 0,
    group_size: int = 1000,
    note_bytes: int = 2000,
    attachment_bytes: int = 600,
    start: datetime = START,
) -> Source:
    """A practice with this many patients in Groups of ``group_size``, and ``outside`` more in no Group.

    About 34 resources a patient, of each type in ``types``; all changed within hours from ``start`` on. References to
    omitted types stay, and have no target.
    """
    # The same seed must give the same data; nothing here is secret.
    make = Make(random.Random(seed), Source())  # noqa: S311
    everybody = [make.id() for _ in range(patients + outside)]
    office = directory.office(make)
    moment = start
    for resource in _all(make, office, everybody, note_bytes, attachment_bytes):
        if resource["resourceType"] in types:
            make.source.add(resource, at=moment)
            moment += timedelta(milliseconds=1)
    members = everybody[:patients]
    for first in range(0, max(1, patients), group_size):
        make.source.groups[make.id()] = dict.fromkeys(members[first : first + group_size], start)
    return make.source


def _all(
    make: Make, office: directory.Office, everybody: list[str], note_bytes: int, attachment_bytes: int
) -> Iterable[Json]:
    yield from office.resources
    for number, patient in enumerate(everybody):
        # Each patient links to the next, and the last to the first: a ring of references between patients.
        other = everybody[(number + 1) % len(everybody)]
        case = Case(make, office, patient, other, note_bytes=note_bytes, attachment_bytes=attachment_bytes)
        yield from chart.resources(case)
