"""What a source reports as not exported: the OperationOutcomes of a manifest's ``error`` (STU4: ``outcome``) files.

https://hl7.org/fhir/uv/bulkdata/export.html#response---output-manifest
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bot_layer.fhir.json import Json, as_object, objects, text

ANY_TYPE: Final = "*"  # an error that does not name a type may concern any of them
REFUSED_FILE: Final = "file at an address that is refused"
MISSING_FILE: Final = "file that the source does not give"
SHORT_FILE: Final = "fewer resources in a file than announced"
NO_ADDRESS: Final = "file without an address"
UNREADABLE: Final = "error file that cannot be read"
UNREADABLE_DELETIONS: Final = "file of deletions that cannot be read"
# FHIR R4 has fatal, error, warning and information; R5 adds success.
_HARMLESS: Final = frozenset({"information", "success"})
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,39}")
_WORD: Final = re.compile(r"[A-Z][A-Za-z]{2,39}")


@dataclass(frozen=True)
class NotExported:
    """How many resources of a type the source did not export, and the reason as a FHIR code."""

    type: str
    count: int
    reason: str


def read_outcomes(
    outcomes: Iterable[Json], types: Iterable[str], *, named: str = ""
) -> tuple[tuple[NotExported, ...], tuple[str, ...]]:
    """What the OperationOutcomes of an export of these types report as missing, and what is only listed in the report.

    ``named`` is the type in the manifest's entry. The text of an outcome may contain personal data: only its codes and
    the type names are kept.
    """
    asked = frozenset(types)
    missing: list[NotExported] = []
    notes: Counter[str] = Counter()
    for outcome in outcomes:
        issues = objects(outcome.get("issue")) if outcome.get("resourceType") == "OperationOutcome" else []
        if not issues:
            missing += unreadable()
        for issue in issues:
            severity = _code(issue.get("severity"), "error").lower()
            reason = f"{severity} {_code(issue.get('code'), 'unknown')}"
            if severity == "warning":
                notes[reason] += 1
            elif severity not in _HARMLESS:
                missing += [NotExported(kind, 1, reason) for kind in _types_of(issue, asked, named) or (ANY_TYPE,)]
    found = tuple(f"the source reports {number} x {reason}" for reason, number in sorted(notes.items()))
    return merged((), missing), found


def unreadable(reason: str = UNREADABLE) -> tuple[NotExported, ...]:
    """The report for an error file that cannot be read: any type may be incomplete."""
    return (NotExported(ANY_TYPE, 1, reason),)


def without_address(types: Iterable[str]) -> tuple[NotExported, ...]:
    """The report for files of these types that a manifest lists without an address; an empty type is unknown."""
    return merged((), (NotExported(kind or ANY_TYPE, 1, NO_ADDRESS) for kind in types))


def incomplete_types(types: Iterable[str], missing: Iterable[NotExported]) -> frozenset[str]:
    """The exported types whose time stamp must not move.

    If a Patient was not exported, all resources of the patient are missing: it counts for every type.
    """
    reported = {each.type for each in missing}
    asked = frozenset(types)
    return asked if reported & {ANY_TYPE, "Patient"} else asked & reported


def merged(before: Iterable[NotExported], more: Iterable[NotExported]) -> tuple[NotExported, ...]:
    """Both lists, with the counts added up by type and reason."""
    numbers: Counter[tuple[str, str]] = Counter()
    for each in (*before, *more):
        numbers[each.type, each.reason] += each.count
    return tuple(NotExported(kind, number, reason) for (kind, reason), number in sorted(numbers.items()))


def _types_of(issue: Json, asked: frozenset[str], named: str) -> tuple[str, ...]:
    """The exported types that an issue concerns: by its location, else by its text, else by the manifest's entry."""
    details = as_object(issue.get("details"))
    codings = [each.get(name) for each in objects(details.get("coding")) for name in ("code", "display")]
    places = [each for name in ("expression", "location") for each in _listed(issue.get(name))]
    words = [issue.get("diagnostics"), details.get("text"), *codings]
    for texts in (places, words, [named]):
        found = {word for each in texts for word in _WORD.findall(text(each))} & asked
        if found:
            return tuple(sorted(found))
    return ()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _code(value: object, otherwise: str) -> str:
    """The value if it is a FHIR code; anything else could contain personal data."""
    return text(value) if _CODE.fullmatch(text(value)) else otherwise
