"""Does a clinician's name in Medplum match the one in Health Gorilla's NPI directory?

The rule is the integration's own (User Management, "Name Matching and Validation"): the family name is equal,
ignoring case and outer white space; the directory's first given name equals the whole of Medplum's given names, or
any single word in them; any of the practitioner's names may match. Text is compared after Unicode normalization (NFC)
and case folding, and runs of white space count as one space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

from bot_layer.fhir.demographics import folded
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.periods import in_force

_USES: Final = {"official": 0, "usual": 1, None: 2}

ComparableName = NewType("ComparableName", str)


class NameMatch(StrEnum):
    """How far two names agree; each but MATCH is the code of a refusal."""

    MATCH = "match"
    FAMILY_DIFFERS = "family-name-mismatch"
    GIVEN_DIFFERS = "given-name-mismatch"
    MISSING = "name-missing"
    DIRECTORY_NAME_MISSING = "directory-name-missing"


@dataclass(frozen=True)
class PersonName:
    """A HumanName, read once. ``element`` is what was read; a former name is one of use maiden, or not in force."""

    element: Json = field(default_factory=dict, repr=False)
    family: ComparableName = field(default=ComparableName(""), repr=False)
    given: tuple[ComparableName, ...] = field(default=(), repr=False)
    is_former: bool = False

    @classmethod
    def read(cls, name: Json, now: datetime) -> PersonName:
        """The name as it is compared, at the time ``now``."""
        given = name.get("given")
        return cls(
            element=name,
            family=comparable(name.get("family")),
            given=tuple(map(comparable, given)) if isinstance(given, list) else (),
            is_former=name.get("use") == "maiden" or not in_force(name, now),
        )

    @property
    def first_given(self) -> ComparableName:
        """The first given name; empty where there is none."""
        return self.given[0] if self.given else ComparableName("")

    @property
    def given_forms(self) -> frozenset[ComparableName]:
        """All that a first given name may equal: the given names as a whole, each of them, and each single word."""
        words = [ComparableName(word) for part in self.given for word in part.split()]
        whole = ComparableName(" ".join(filter(None, self.given)))
        return frozenset({whole, *self.given, *words} - {ComparableName("")})


def read(names: object, now: datetime) -> tuple[PersonName, ...]:
    """The names of a resource, in their order."""
    return tuple(PersonName.read(each, now) for each in objects(names))


def comparable(text: object) -> ComparableName:
    """The text as it is compared; anything that is not text becomes the empty name, which never matches."""
    return ComparableName(folded(text))


def match(names: Sequence[PersonName], directory: PersonName) -> NameMatch:
    """The best agreement of any of the practitioner's names with the directory's."""
    if not directory.family or not directory.first_given:
        return NameMatch.DIRECTORY_NAME_MISSING
    complete = [name for name in names if name.family and name.given_forms]
    if not complete:
        return NameMatch.MISSING
    same_family = [name for name in complete if name.family == directory.family]
    if not same_family:
        return NameMatch.FAMILY_DIFFERS
    if any(directory.first_given in name.given_forms for name in same_family):
        return NameMatch.MATCH
    return NameMatch.GIVEN_DIFFERS


def official(names: Sequence[PersonName]) -> PersonName:
    """The name that somebody goes by; an empty one where there is none.

    A name in force before a former one; then the complete one, then by use: official, usual, none, any other. Of equals
    the first.
    """
    return min(names, key=_rank, default=PersonName())


def _rank(name: PersonName) -> tuple[bool, bool, int]:
    use = name.element.get("use")
    is_incomplete = not (name.family and name.first_given)
    return name.is_former, is_incomplete, _USES.get(use if isinstance(use, str) else None, len(_USES))
