"""Why Health Gorilla refused an account, as far as its answer says.

The texts are not documented, so the whole OperationOutcome is searched for the words that any such text must contain. A
clash comes first, because its text often names what it clashes in (the tenant, the facility). What is not recognized
stays ``refused-by-health-gorilla``, with the status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot_layer.fhir.json import Json, as_object, objects

LOGIN_TAKEN = "login-taken"
EMAIL_TAKEN = "email-taken"
# "does not exist" is no clash.
_CLASH = r"(\btaken\b|\bin use\b|\balready\b|\bduplicate|\bunique\b|(?<!not )\bexists?\b)"
_PERSON = r"\b(user|account|practitioner|provider|clinician|person|member|npi)\b"
_UNKNOWN = r"(unknown|not (found|exist|valid|known|recogni[sz]ed)|no (such|access)|invalid)"


@dataclass(frozen=True)
class Reason:
    """A cause: the code of the answer, what to do, and the words by which it is known.

    ``of_text_only``: the words are not looked for in the paths of elements, which say "Practitioner" anyway.
    """

    code: str
    text: str
    words: str
    of_text_only: bool = False


REASONS = (
    Reason(EMAIL_TAKEN, "The e-mail address is taken in some tenant.", rf"e-?mail.*{_CLASH}|{_CLASH}.*e-?mail"),
    Reason(
        LOGIN_TAKEN,
        "The login is taken: set another one on the Practitioner.",
        rf"(login|user ?name).*{_CLASH}|{_CLASH}.*(login|user ?name)",
    ),
    Reason(
        "already-enrolled",
        "Health Gorilla says that the person already has an account; sync again.",
        # A clash of an account number is the next but one cause.
        rf"^(?!.*account number).*(already (enrolled|registered)|{_PERSON}.*{_CLASH}|{_CLASH}.*{_PERSON}|\bduplicate)",
        of_text_only=True,
    ),
    Reason(
        "directory-name-mismatch",
        "Health Gorilla says that the name is not the NPI directory's.",
        r"(name.*(directory|npi registry|match))|((directory|npi registry).*name)",
    ),
    Reason(
        "laboratory-unknown",
        "Health Gorilla does not know a laboratory: correct the f- id of its Organization.",
        r"Organization/f-|facility|laborator|\blab\b",
    ),
    Reason(
        "account-number-refused",
        "An account number is not assigned to this practice: ask the laboratory or Health Gorilla to add it.",
        r"account number",
    ),
    Reason("location-unknown", "Health Gorilla does not know a location: run $sync-location first.", r"location|tl-"),
    Reason(
        "tenant-unknown",
        "Health Gorilla does not know the tenant: check its id.",
        rf"Organization/t-|tenant.*{_UNKNOWN}|{_UNKNOWN}.*tenant",
    ),
)
_LOGIN = next(known for known in REASONS if known.code == LOGIN_TAKEN)
UNKNOWN = Reason("refused-by-health-gorilla", "Health Gorilla refused the account for an unknown reason.", r"")


def reason(outcome: Json, *, login: str = "") -> Reason:
    """The first known cause that an OperationOutcome names, else UNKNOWN. ``login`` is the one that was requested."""
    texts, places = _texts(outcome)
    said, everything = " ".join(texts), " ".join([*texts, *places])
    if login and login.casefold() in said.casefold() and re.search(_CLASH, said, re.IGNORECASE):
        return _LOGIN
    flags = re.IGNORECASE | re.DOTALL
    found = (each for each in REASONS if re.search(each.words, said if each.of_text_only else everything, flags))
    return next(found, UNKNOWN)


def _texts(outcome: Json) -> tuple[list[str], list[str]]:
    """The texts of the issues, a code that says "duplicate" among them, and the paths of their elements."""
    texts: list[str] = []
    places: list[str] = []
    for issue in objects(outcome.get("issue")):
        texts += [str(issue.get("diagnostics") or ""), str(as_object(issue.get("details")).get("text") or "")]
        texts += ["duplicate"] if issue.get("code") == "duplicate" else []
        listed = [issue.get("location"), issue.get("expression")]
        places += [str(place) for each in listed if isinstance(each, list) for place in each]
    return texts, places
