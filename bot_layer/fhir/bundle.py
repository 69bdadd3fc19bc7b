"""A search's answer: only a searchset Bundle is one. Nothing else may pass for "there is none".

https://hl7.org/fhir/R4/bundle.html#searchset and https://hl7.org/fhir/R4/http.html#search
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot_layer.fhir.json import Json, as_object, objects, text


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
    bundle = as_object(document)
    given = bundle.get("entry")
    entries = given if isinstance(given, list) else [] if given is None else [None]
    resources = [as_object(as_object(entry).get("resource")) for entry in entries]
    is_read = all(isinstance(resource.get("resourceType"), str) for resource in resources)
    is_searchset = (bundle.get("resourceType"), bundle.get("type")) == ("Bundle", "searchset")
    total = bundle.get("total")
    if not is_searchset or not is_read or not _is_count(total):
        raise NotASearchset("answered a search with something else than a searchset Bundle")
    matches: list[Json] = []
    included: list[Json] = []
    for entry, resource in zip(entries, resources, strict=True):
        if resource["resourceType"] == "OperationOutcome":
            _require_no_error(resource)
        elif as_object(entry.get("search")).get("mode") == "include":
            included.append(resource)
        else:
            matches.append(resource)
    links = (link for link in objects(bundle.get("link")) if link.get("relation") == "next")
    following = next((url for link in links if (url := text(link.get("url")))), None)
    if total and not matches and following is None:
        raise NotASearchset("counted matches of a search and did not send them")
    if matches and resource_type and all(each["resourceType"] != resource_type for each in matches):
        raise NotASearchset("answered a search with resources of another type")
    return Searchset(tuple(matches), tuple(included), following, None if total is None else int(total))


def _is_count(total: Any) -> bool:
    """Whether a total is missing, or a whole number."""
    if total is None:
        return True
    return isinstance(total, int | float) and not isinstance(total, bool) and total >= 0 and total % 1 == 0


def _require_no_error(outcome: Json) -> None:
    issues = outcome.get("issue")
    severities = {each.get("severity") for each in objects(issues) if isinstance(each.get("severity"), str)}
    if not isinstance(issues, list) or len(objects(issues)) != len(issues) or severities & {"error", "fatal"}:
        raise NotASearchset("reported an error inside the answer to a search")
