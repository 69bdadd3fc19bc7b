"""How search parameters are read: tokens, references, strings, and which names a type knows."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import urlencode

from medplum_sandbox.health_gorilla.outcomes import cannot_handle, refused
from medplum_sandbox.health_gorilla.wire import Ask
from medplum_sandbox.json import Json

PAGING = frozenset({"_count", "_offset", "_cursor", "_format"})
DEFAULT_COUNT = 50
_CURSOR = "after:"


def check_names(ask: Ask, kind: str, known: Iterable[str]) -> None:
    """Refuses parameters that the type does not know, as the real one words it."""
    allowed = PAGING | frozenset(known)
    names = [name for name, _ in ask.query]
    if any(name.partition(":")[0] not in allowed for name in names):
        raise cannot_handle(ask.method, kind, names)


def token_matches(value: str, candidates: Iterable[tuple[str | None, str | None]]) -> bool:
    """Whether ``system|code``, ``|code`` or ``code`` (alternatives by comma) is among (system, code) pairs."""
    pairs = list(candidates)
    for alternative in value.split(","):
        system, bar, code = alternative.rpartition("|")
        for its_system, its_code in pairs:
            if its_code == code and (not bar or (its_system or "") == system):
                return True
    return False


def identifier_pairs(resource: Json) -> list[tuple[str | None, str | None]]:
    """(system, value) of all identifiers."""
    return [(i.get("system"), i.get("value")) for i in resource.get("identifier", [])]


def coding_pairs(concepts: Iterable[Json]) -> list[tuple[str | None, str | None]]:
    """(system, code) of all codings."""
    return [(c.get("system"), c.get("code")) for concept in concepts for c in concept.get("coding", [])]


def string_matches(value: str, candidates: Iterable[str], *, exact: bool) -> bool:
    """FHIR's string search: starts with, ignoring case and accents; with ``:exact`` equal.

    https://hl7.org/fhir/R4/search.html#string
    """
    words = list(candidates)
    for alternative in value.split(","):
        if exact and alternative in words:
            return True
        if not exact and any(_plain(word).startswith(_plain(alternative)) for word in words):
            return True
    return False


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def page(ask: Ask, found: Sequence[Json], base_url: str, kind: str) -> tuple[list[Json], str | None]:
    """The requested page, and the URL of the next one."""
    count = _number(ask, "_count", DEFAULT_COUNT)
    start = _number(ask, "_offset", 0)
    for cursor in ask.values("_cursor"):
        start = _read_cursor(cursor)
    rows = list(found[start : start + count])
    if start + count >= len(found):
        return rows, None
    cursor = base64.urlsafe_b64encode(f"{_CURSOR}{start + count}".encode()).decode()
    kept = [(key, value) for key, value in ask.query if key not in ("_cursor", "_offset")]
    return rows, f"{base_url}/{kind}?{urlencode([*kept, ('_cursor', cursor)])}"


def _number(ask: Ask, name: str, default: int) -> int:
    values = ask.values(name)
    if not values:
        return default
    if not values[0].isdigit():
        raise refused(400, "value", f"{name} must be a number.")
    return int(values[0])


def _read_cursor(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor).decode()
        return int(text.removeprefix(_CURSOR))
    except ValueError:
        raise refused(400, "value", "The cursor is unknown.") from None
