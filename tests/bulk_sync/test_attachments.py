"""A document's content follows the source, and what could not be fetched for now is fetched later."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.bulk_sync.options import Options
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Canned, Switches
from medplum_sandbox.server import Server
from tests.bulk_sync.test_named_faults import change, one, small
from tests.bulk_sync.world import World, counts, patient


def document(**fields: Any) -> Json:
    """It links to content without its hash, size or time."""
    attachment = {"contentType": "text/plain", "url": "Binary/b1"}
    return {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": attachment}],
        **fields,
    }


def binary(text: bytes) -> Json:
    """The content at the source."""
    data = base64.b64encode(text).decode()
    return {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": data}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[World]:
    """A document whose content is read by REST."""
    readable = Switches.general(open_types=frozenset({"Group", "Binary"}))
    with small(patient("p1"), document(), binary(b"first"), switches=readable, folder=tmp_path) as made:
        made.settings["PF_RESOURCE_TYPES"] = "Patient,DocumentReference"
        yield made


def link(both: World) -> str:
    """The link of Medplum's document."""
    return str(one(both, "DocumentReference", "d1")["content"][0]["attachment"]["url"])


def fetched(both: World) -> int:
    """How often the source was asked for the content."""
    return len([each for each in both.source.requests if each.path.endswith("/Binary/b1")])


def test_content_that_changed_behind_the_same_link_is_fetched_again(both: World) -> None:
    """The document changed, and nothing shows that its content is the same."""
    both.run()
    assert both.content(link(both)) == b"first"
    change(both, binary(b"second"))
    change(both, document(status="superseded"))
    both.run()
    assert both.content(link(both)) == b"second"


def test_content_that_is_the_same_is_not_stored_again(both: World) -> None:
    """It is fetched if it may have changed, and compared; a full run without changes fetches nothing."""
    both.run()
    before = link(both).partition("?")[0]
    change(both, document(status="superseded"))
    both.run()
    assert link(both).partition("?")[0] == before
    asked = fetched(both)
    assert counts(both.run(Options(full=True)))["updated"] == 0
    assert fetched(both) == asked


def test_content_that_could_not_be_fetched_is_tried_again(both: World) -> None:
    """The document is stored, its link leads to the source, and it is kept for --retry-failed."""
    both.source.faults.add("server_error", status=503, method="GET", path="/Binary/b1")
    state = both.run()
    assert counts(state)["created"] == counts(state)["seen"]
    assert link(both) == f"{both.source.base_url}/Binary/b1"
    assert state.failures
    both.source.faults.clear()
    state = both.run(Options(retry_failed=True))
    assert counts(state)["updated"] == 1
    assert not state.failures
    assert both.content(link(both)) == b"first"


def test_content_that_the_source_does_not_give_is_not(both: World) -> None:
    """To ask again would change nothing."""
    both.source.faults.add("server_error", status=404, method="GET", path="/Binary/b1")
    assert not both.run().failures
    assert link(both) == f"{both.source.base_url}/Binary/b1"


JSON_BINARY = {"resourceType": "Binary", "contentType": "text/plain", "data": base64.b64encode(b"wrapped").decode()}
XML_BINARY = (
    b'<Binary xmlns="http://hl7.org/fhir"><contentType value="text/plain"/><data value="d3JhcHBlZA=="/></Binary>'
)


def answers(both: World, body: object, content_type: str = "application/fhir+json", **fields: Any) -> None:
    """What the source answers for the content."""
    both.source.canned = [Canned("/Binary/b1", body, content_type=content_type, **fields)]


@pytest.mark.parametrize("body", [JSON_BINARY, XML_BINARY, json.dumps(JSON_BINARY, indent=2).encode()])
@pytest.mark.parametrize("content_type", ["application/fhir+json", "text/plain", "application/d\u00f6k"])
def test_content_inside_a_fhir_binary_is_taken_out(both: World, body: object, content_type: str) -> None:
    """Some sources answer with a Binary as JSON or XML: stored as it is, it would be a corrupt document."""
    answers(both, body, content_type)
    both.run()
    assert both.content(link(both)) == b"wrapped"


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", "text/plain", "the answer is empty"),
        ({"resourceType": "OperationOutcome", "issue": []}, "application/fhir+json", "the answer is an error"),
        ({"resourceType": "Binary", "contentType": "text/plain"}, "application/fhir+json", "a Binary without"),
        ({"resourceType": "Binary", "data": "?"}, "application/json", "a Binary without"),
    ],
)
def test_content_that_is_not_a_document_is_reported_and_not_stored(
    both: World, body: object, content_type: str, reason: str
) -> None:
    """The link stays, and the report says why."""
    answers(both, body, content_type)
    state = both.run()
    assert state.run is not None
    assert link(both) == f"{both.source.base_url}/Binary/b1"
    ((what, number),) = state.run.uncopied.items()
    assert (what.startswith(f"DocumentReference: {reason}"), number) == (True, 1)
    assert "not-copied" in str(both.stored("Task"))


def test_a_gateways_page_is_no_document(both: World) -> None:
    """Whatever it says of its type; it is fetched again with what failed."""
    for content_type in ("text/html", "text/plain"):
        answers(both, b"<!DOCTYPE html><html>We will be back soon.</html>", content_type)
        state = both.run(Options(full=True))
        assert link(both) == f"{both.source.base_url}/Binary/b1"
        assert state.failures
    both.source.canned = []
    both.run(Options(retry_failed=True))
    assert both.content(link(both)) == b"first"


def test_content_of_another_length_than_stated_is_not_stored(both: World) -> None:
    """Half a document is none."""
    stated = {"contentType": "text/plain", "url": "Binary/b1", "size": 6}
    change(both, document(content=[{"attachment": stated}]))
    state = both.run()
    assert state.run is not None
    assert list(state.run.uncopied) == ["DocumentReference: the answer is of another size than stated"]


def test_every_attachment_is_copied_also_from_another_host(tmp_path: Path) -> None:
    """A patient's photo, an extension's, one of a contained resource; another host gets no token; a full run writes
    nothing."""
    asked: list[str] = []

    async def photo(request: Request) -> Response:
        asked.append(request.headers.get("authorization", ""))
        return Response(b"a photo", media_type="image/png")

    with Server(Starlette(routes=[Route("/photo", photo)])) as other:
        image = {"contentType": "image/png", "url": f"{other.base_url}/photo"}
        large = base64.b64encode(b"x" * 600_000).decode()
        who = patient(
            "p1",
            photo=[image, {"contentType": "text/plain", "data": large}],
            extension=[{"url": "https://x.example/scan", "valueAttachment": {**image, "title": "scan"}}],
        )
        with small(who, folder=tmp_path) as both:
            both.settings["PF_RESOURCE_TYPES"] = "Patient"
            state = both.run()
            assert state.run is not None
            assert not state.run.uncopied
            (stored,) = both.stored("Patient")
            links = [*(each["url"] for each in stored["photo"]), stored["extension"][0]["valueAttachment"]["url"]]
            assert [both.content(each) for each in links] == [b"a photo", b"x" * 600_000, b"a photo"]
            assert asked == [""]
            assert counts(both.run(Options(full=True)))["updated"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"extension": "odd"},
        {"extension": ["odd", 5]},
        {"extension": None},
        {"url": 5},
        {"url": "http://[::1"},
        {"url": "Binary/../../b1"},
        {"url": None, "data": "\u00e9" * 100_000},
        {"size": "many", "hash": 5},
        {"contentType": ["text/plain"]},
    ],
    ids="-".join,
)
def test_an_attachment_of_an_odd_shape_ends_no_run(fields: Json, tmp_path: Path) -> None:
    """Medplum takes or refuses its resource; everything else is imported."""
    odd = document(content=[{"attachment": {"contentType": "text/plain", "url": "Binary/b1", **fields}}])
    content = {"resourceType": "Binary", "id": "b2", "contentType": "text/plain", "data": "\u00e9"}
    readable = Switches.general(open_types=frozenset({"Group", "Binary"}))
    with small(patient("p1"), odd, binary(b"first"), content, switches=readable, folder=tmp_path) as both:
        state = both.run()
        assert state.run is not None
        assert state.run.phase in {"done", "partial"}
        assert one(both, "Patient", "p1")
