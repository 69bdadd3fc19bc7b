"""A document's content follows the source, and what could not be fetched for now is fetched later."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot_layer.bulk_sync.engine import Options
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Switches
from tests.bulk_sync.test_named_faults import change, one, small
from tests.bulk_sync.world import World, counts, patient


def document(**fields: Any) -> Json:
    """It points to content and says nothing of it: neither hash nor size nor time."""
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
    """Where Medplum's document points to."""
    return str(one(both, "DocumentReference", "d1")["content"][0]["attachment"]["url"])


def fetched(both: World) -> int:
    """How often the source was asked for the content."""
    return len([each for each in both.source.requests if each.path.endswith("/Binary/b1")])


def test_content_that_changed_behind_the_same_link_is_fetched_again(both: World) -> None:
    """The document changed, and nothing vouches for what it points to."""
    both.run()
    assert both.content(link(both)) == b"first"
    change(both, binary(b"second"))
    change(both, document(status="superseded"))
    both.run()
    assert both.content(link(both)) == b"second"


def test_content_that_is_the_same_is_not_stored_again(both: World) -> None:
    """It is fetched where it may have changed, and compared; a full run with no change fetches nothing."""
    both.run()
    before = link(both).partition("?")[0]
    change(both, document(status="superseded"))
    both.run()
    assert link(both).partition("?")[0] == before
    asked = fetched(both)
    assert counts(both.run(Options(full=True)))["updated"] == 0
    assert fetched(both) == asked


def test_content_that_could_not_be_fetched_is_tried_again(both: World) -> None:
    """The document is there, its link leads to the source, and it is kept for --retry-failed."""
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
