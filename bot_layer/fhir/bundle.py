"""A search's answer: only a searchset Bundle is one. Nothing else may pass for "there is none".

https://hl7.org/fhir/R4/bundle.html#searchset and https://hl7.org/fhir/R4/http.html#search
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot_layer.fhir.json import Json

_ERRORS = frozenset({"error", "fatal"})


class NotASearchset(ValueError):
    """The document does not answer a search. The text completes "the service ..."."""


@dataclass(frozen=True)
class Searchset:
    """One page of a search: what matches, what was included with it, the next page's URL, the total of all pages."""

    matches: tuple[Json, ...]
    included: tuple[Json, ...] = ()
    next_url: str | None = None
    total: int | None = None

    @property
    def resources(self) -> tuple[Json, ...]:
        """Matches and included resources."""
        return self.matches + self.included


def read_searchset(document: Any, resource_type: str | None = None) -> Searchset:
    """The page that a server answered; NotASearchset for anything that is no complete answer to a search.

    ``resource_type`` is what was searched for: matches of nothing but other types answer another search. An
    OperationOutcome among the entries is normal, unless it reports an error: then a part of the search was not done.
    """
    if not isinstance(document, Mapping) or document.get("resourceType") != "Bundle":
        raise NotASearchset("answered a search without a Bundle")
    if document.get("type") != "searchset":
        raise NotASearchset("answered a search with another kind of Bundle")
    matches: list[Json] = []
    included: list[Json] = []
    for resource, mode in _entries(document.get("entry")):
        if resource["resourceType"] == "OperationOutcome":
            _require_no_error(resource)
        else:
            (included if mode == "include" else matches).append(resource)
    following = _next_url(document.get("link"))
    total = _total(document.get("total"))
    if total and not matches and following is None:
        raise NotASearchset("counted matches of a search and did not send them")
    if matches and resource_type and all(each["resourceType"] != resource_type for each in matches):
        raise NotASearchset("answered a search with resources of another type")
    return Searchset(tuple(matches), tuple(included), following, total)


def _total(given: Any) -> int | None:
    if given is None:
        return None
    is_count = isinstance(given, int) or (isinstance(given, float) and given.is_integer())
    if not is_count or isinstance(given, bool) or given < 0:
        raise NotASearchset("answered a search with a total that is no count")
    return int(given)


def _entries(listed: Any) -> list[tuple[Json, str | None]]:
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise NotASearchset("answered a search with entries that are not a list")
    return [(_resource(entry), _mode(entry)) for entry in listed]


def _resource(entry: Any) -> Json:
    resource = entry.get("resource") if isinstance(entry, dict) else None
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise NotASearchset("answered a search with an entry that has no resource")
    return resource


def _mode(entry: Json) -> str | None:
    """``match``, ``include`` or ``outcome``; without a mode an OperationOutcome is an outcome, all else a match."""
    search = entry.get("search")
    mode = search.get("mode") if isinstance(search, dict) else None
    return mode if isinstance(mode, str) else None


def _require_no_error(outcome: Json) -> None:
    issues = outcome.get("issue")
    if not isinstance(issues, list) or any(not isinstance(each, dict) for each in issues):
        raise NotASearchset("answered a search with an OperationOutcome that cannot be read")
    if any(each.get("severity") in _ERRORS for each in issues):
        raise NotASearchset("reported an error inside the answer to a search")


def _next_url(links: Any) -> str | None:
    listed = links if isinstance(links, list) else []
    urls = [each.get("url") for each in listed if isinstance(each, dict) and each.get("relation") == "next"]
    return next((url for url in urls if isinstance(url, str) and url), None)
