"""Does a clinician's name in Medplum match the one in Health Gorilla's NPI directory?

The rule is the integration's own (User Management, "Name Matching and Validation"): the family name is equal,
ignoring case and outer white space; the directory's first given name equals the whole of Medplum's given names, or
any single word in them; any of the practitioner's names may match. Text is compared after Unicode normalization (NFC)
and case folding, and runs of white space count as one space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import NewType

from bot_layer.fhir.json import Json, objects

_FORMER = frozenset({"old", "maiden"})
_USES = {"official": 0, "usual": 1, None: 2}

ComparableName = NewType("ComparableName", str)


class NameMatch(StrEnum):
    """How far two names agree; each but MATCH is the code of a refusal."""

    MATCH = "match"
    FAMILY_DIFFERS = "family-name-mismatch"
    GIVEN_DIFFERS = "given-name-mismatch"
    MISSING = "name-missing"
    DIRECTORY_NAME_MISSING = "directory-name-missing"


def comparable(text: object) -> ComparableName:
    """The text as it is compared; anything that is not text becomes the empty name, which never matches."""
    if not isinstance(text, str):
        return ComparableName("")
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return ComparableName(" ".join(folded.split()))


def match(names: Sequence[Json], directory_name: Json) -> NameMatch:
    """The best agreement of any of the practitioner's HumanNames with the directory's HumanName."""
    wanted_family, wanted_given = comparable(directory_name.get("family")), _first_given(directory_name)
    if not wanted_family or not wanted_given:
        return NameMatch.DIRECTORY_NAME_MISSING
    complete = [name for name in names if comparable(name.get("family")) and _given_forms(name)]
    if not complete:
        return NameMatch.MISSING
    same_family = [name for name in complete if comparable(name.get("family")) == wanted_family]
    if not same_family:
        return NameMatch.FAMILY_DIFFERS
    if any(wanted_given in _given_forms(name) for name in same_family):
        return NameMatch.MATCH
    return NameMatch.GIVEN_DIFFERS


def official(names: object) -> Json:
    """The name that the directory goes by; empty where there is none.

    A name in force before a former one (use old or maiden, or with an end); then the complete one, then by use:
    official, usual, none, any other. Of equals the first.
    """
    return min(objects(names), key=_rank, default={})


def _rank(name: Json) -> tuple[bool, bool, int]:
    use, period = name.get("use"), name.get("period")
    is_former = use in _FORMER or (isinstance(period, dict) and bool(period.get("end")))
    is_incomplete = not (comparable(name.get("family")) and _first_given(name))
    return is_former, is_incomplete, _USES.get(use if isinstance(use, str) else None, len(_USES))


def _first_given(name: Json) -> ComparableName:
    given = _given(name)
    return given[0] if given else ComparableName("")


def _given_forms(name: Json) -> frozenset[ComparableName]:
    """All that a first given name may equal: the given names as a whole, each of them, and each single word."""
    given = _given(name)
    words = [ComparableName(word) for part in given for word in part.split()]
    return frozenset({ComparableName(" ".join(filter(None, given))), *given, *words} - {ComparableName("")})


def _given(name: Json) -> list[ComparableName]:
    given = name.get("given")
    return [comparable(part) for part in given] if isinstance(given, list) else []
