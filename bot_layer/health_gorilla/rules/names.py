"""Does a clinician's name in Medplum match the one in Health Gorilla's NPI directory?

The rule is the integration's own (User Management, "Name Matching and Validation"): the family name is equal,
ignoring case and outer white space; the directory's first given name equals the whole of Medplum's given names, or
any single word in them; any of the practitioner's names may match. Text is compared after Unicode normalisation (NFC)
and case folding, and runs of white space count as one space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import NewType

from bot_layer.fhir.json import Json

ComparableName = NewType("ComparableName", str)


class NameMatch(StrEnum):
    """How far two names agree; each but MATCH is the code of a refusal."""

    MATCH = "match"
    FAMILY_DIFFERS = "family-name-mismatch"
    GIVEN_DIFFERS = "given-name-mismatch"
    MISSING = "name-missing"
    DIRECTORY_NAME_MISSING = "directory-name-missing"


def comparable(text: object) -> ComparableName:
    """The text as it is compared; anything that is no text compares as the empty name, which never matches."""
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


def official(names: Sequence[Json]) -> Json:
    """The name that the directory goes by: the one of use ``official``, else the first; empty where there is none."""
    return next((name for name in names if name.get("use") == "official"), names[0] if names else {})


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
