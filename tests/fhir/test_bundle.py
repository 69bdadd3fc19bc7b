"""Only a searchset Bundle answers a search; nothing else may pass for "there is none"."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.bundle import NotASearchset, Searchset, read_searchset
from bot_layer.fhir.json import Json

PATIENT: Json = {"resourceType": "Patient", "id": "p-1"}
PERSON: Json = {"resourceType": "Practitioner", "id": "d-1"}


def outcome(*severities: str) -> Json:
    issues = [{"severity": each, "code": "informational"} for each in severities]
    return {"resourceType": "OperationOutcome", "issue": issues}


def searchset(*entries: Any, **more: Any) -> Json:
    return {"resourceType": "Bundle", "type": "searchset", "entry": list(entries)} | more


ODD: list[Any] = [
    None,
    "",
    [],
    {},
    [PATIENT],
    PATIENT,
    outcome("error"),
    outcome("information"),
    {"resourceType": "Bundle"},
    {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": PATIENT}]},
    {"resourceType": "Bundle", "type": "batch-response", "entry": []},
    {"resourceType": "Parameters", "parameter": []},
    searchset(None),
    searchset("text"),
    searchset([PATIENT]),
    searchset({}),
    searchset({"resource": None}),
    searchset({"resource": "Patient/p-1"}),
    searchset({"resource": {"id": "p-1"}}),
    searchset({"resource": PATIENT}, None),
    searchset(entry={"resource": PATIENT}),
    searchset(entry="text"),
    searchset({"resource": outcome("error")}),
    searchset({"resource": outcome("warning", "fatal"), "search": {"mode": "outcome"}}),
    searchset({"resource": PATIENT}, {"resource": outcome("error"), "search": {"mode": "outcome"}}),
    searchset({"resource": {"resourceType": "OperationOutcome"}}),
    searchset({"resource": {"resourceType": "OperationOutcome", "issue": [None]}}),
    searchset({"resource": outcome("error"), "search": {"mode": "match"}}),
    searchset(total=1),
    searchset(total="1"),
    searchset(total=True),
    searchset(total=1.0),
    searchset(total=0.5),
    searchset(total=float("nan")),
    searchset(total=float("inf")),
    searchset(total=-1),
    searchset({"resource": {"resourceType": "Basic", "id": "b"}, "search": {"mode": "match"}}, total=1),
    searchset({"resource": PERSON, "search": {"mode": "include"}}, total=1),
    searchset({"resource": outcome("warning"), "search": {"mode": "outcome"}}, total=2),
]


@pytest.mark.parametrize("document", ODD)
def test_an_incomplete_answer_is_refused(document: Any) -> None:
    """If it counted as "no match", each of these would create a second patient or account."""
    with pytest.raises(NotASearchset):
        read_searchset(document, "Patient")


@pytest.mark.parametrize(
    "document",
    [
        searchset(),
        searchset(total=0),
        {"resourceType": "Bundle", "type": "searchset"},
        {"resourceType": "Bundle", "type": "searchset", "entry": None},
        searchset({"resource": outcome("warning"), "search": {"mode": "outcome"}}),
        searchset({"resource": outcome("information")}, total=0),
        searchset({"resource": outcome("success"), "search": {"mode": "outcome"}}),
    ],
)
def test_a_searchset_without_matches_means_no_match(document: Json) -> None:
    """An outcome that warns or informs is normal inside one."""
    page = read_searchset(document, "Patient")
    assert page == Searchset((), total=page.total)
    assert not page.total


def test_matches_and_included_resources_are_distinguished() -> None:
    """Without a mode a resource is a match; of the links only the next page counts."""
    page = read_searchset(
        searchset(
            {"resource": PATIENT},
            {"resource": PERSON, "search": {"mode": "include"}},
            {"resource": outcome("warning"), "search": {"mode": "outcome"}},
            link=[None, {"relation": "self", "url": "https://x"}, {"relation": "next", "url": "https://y?_cursor=1"}],
        )
    )
    assert (page.matches, page.included, page.next_url) == ((PATIENT,), (PERSON,), "https://y?_cursor=1")
    assert page.resources == (PATIENT, PERSON)


def test_an_empty_page_before_the_last_is_no_fault() -> None:
    """Some servers filter a page after they cut it."""
    assert read_searchset(searchset(total=3, link=[{"relation": "next", "url": "?p=2"}])).next_url == "?p=2"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["Bundle", "searchset", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["resourceType", "type", "entry", "resource", "link", "total", "issue", "search", "url"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON, JSON)
def test_no_document_is_an_uncaught_exception(document: Any, entry: Any) -> None:
    """A partner's answer may be anything."""
    for each in (document, searchset(entry), searchset(entry=entry), searchset(link=entry, total=entry)):
        try:
            read_searchset(each)
        except NotASearchset:
            continue
