"""The template of a URL's path for logs and errors, which must not contain ids: ``Patient/{id}/_history/{id}``.

Only what is known is kept, by its place: a resource's type, an operation, FHIR's own words, and the words of Medplum's
other addresses. https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import re
from typing import Final

_BASE: Final = "/fhir/R4"
_TYPE: Final = re.compile(r"[A-Z][A-Za-z]{1,40}|metadata")
_FHIR_WORD: Final = re.compile(r"_history|_search|\$[a-z][a-z-]{0,40}")
_WORDS: Final = frozenset({"admin", "auth", "healthcheck", "me", "oauth2", "projects", "secrets", "token", "userinfo"})
_VERSIONED_WORDS: Final = frozenset({"R4", "oauth2"})


def of_path(path: str) -> str:
    """The template of a path at a Medplum server. What precedes the server's own part is left out."""
    _, found, rest = path.partition(_BASE)
    steps = [step for step in (rest if found else path).split("/") if step]
    if found:
        return "/".join(_fhir_step(number, step) for number, step in enumerate(steps)) or "batch"
    while steps and steps[0] not in _WORDS:
        steps = steps[1:]
    return "/".join(step if step in _WORDS else "{id}" for step in steps) or "{path}"


def of_template(template: str) -> str:
    """A template as it is written in the code, but for a step that is an id by mistake: words have no digits."""
    steps = template.split("/")
    return "/".join("{id}" if re.search(r"\d", step) and step not in _VERSIONED_WORDS else step for step in steps)


def _fhir_step(number: int, step: str) -> str:
    known = _FHIR_WORD.fullmatch(step) or (number == 0 and _TYPE.fullmatch(step))
    return step if known else "{id}"
