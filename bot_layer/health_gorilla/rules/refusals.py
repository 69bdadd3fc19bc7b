"""Why Health Gorilla refused an account, as far as its answer tells.

The texts are not documented, so the words that any such text must contain are looked for, in the whole
OperationOutcome; what is not recognised stays ``refused-by-health-gorilla``, with the status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bot_layer.fhir.json import Json

LOGIN_TAKEN = "login-taken"
EMAIL_TAKEN = "email-taken"
_TAKEN = r"(taken|exist|in use|already|duplicate|unique)"


@dataclass(frozen=True)
class Reason:
    """A cause: the code of the answer, what to do, and the words by which it is known."""

    code: str
    text: str
    words: re.Pattern[str]


def _reason(code: str, text: str, words: str) -> Reason:
    return Reason(code, text, re.compile(words, re.IGNORECASE | re.DOTALL))


REASONS = (
    _reason(EMAIL_TAKEN, "The e-mail address is taken in some tenant.", rf"e-?mail.*{_TAKEN}|{_TAKEN}.*e-?mail"),
    _reason(
        LOGIN_TAKEN,
        "The login is taken: set another one on the Practitioner.",
        rf"(login|user ?name).*{_TAKEN}|{_TAKEN}.*(login|user ?name)",
    ),
    _reason("already-enrolled", "The practitioner is enrolled already; sync again.", r"already (enrolled|registered)"),
    _reason(
        "directory-name-mismatch",
        "Health Gorilla says that the name is not the NPI directory's.",
        r"(name.*(directory|npi registry|match))|((directory|npi registry).*name)",
    ),
    _reason(
        "laboratory-unknown",
        "Health Gorilla does not know a laboratory: correct the f- id of its Organization.",
        r"Organization/f-|facility|laborator|\blab\b",
    ),
    _reason(
        "account-number-refused",
        "An account number is not assigned to this practice: ask the laboratory or Health Gorilla to add it.",
        r"account number",
    ),
    _reason("location-unknown", "Health Gorilla does not know a location: run $sync-location first.", r"location|tl-"),
    _reason("tenant-unknown", "Health Gorilla does not know the tenant: check its id.", r"tenant|Organization/t-"),
)
UNKNOWN = _reason(
    "refused-by-health-gorilla", "Health Gorilla refused the account without a reason that is known here.", r""
)


def reason(outcome: Json) -> Reason:
    """The first known cause that an OperationOutcome speaks of, else UNKNOWN."""
    said = " ".join(_texts(outcome))
    return next((known for known in REASONS if known.words.search(said)), UNKNOWN)


def _texts(outcome: Json) -> list[str]:
    texts: list[str] = []
    for issue in _listed(outcome.get("issue")):
        if not isinstance(issue, dict):
            continue
        details = issue.get("details")
        texts.append(str(issue.get("diagnostics") or ""))
        texts.append(str(details.get("text") or "") if isinstance(details, dict) else "")
        texts += [str(place) for key in ("location", "expression") for place in _listed(issue.get(key))]
    return texts


def _listed(value: Any) -> list[Any]:
    """A list as it is; anything else, which a gateway may send in its place, is an empty one."""
    return value if isinstance(value, list) else []
