"""Health Gorilla's side of a federated query, against a small clinic of the tests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import FederatedCaller
from medplum_sandbox.health_gorilla.network import NetworkError
from medplum_sandbox.server import Server

CCDA = b"<ClinicalDocument/>"
NO_STORE = {"Cache-Control": "no-store"}


class Clinic:
    """A responder whose parts a test can spoil."""

    def __init__(self) -> None:
        self.forms: list[dict[str, Any]] = []
        self.patients: list[str | None] = []
        self.token_answer: Callable[[], Response] = self.good_token
        self.attachment: Json = {
            "contentType": "application/xml",
            "size": len(CCDA),
            "hash": base64.b64encode(hashlib.sha1(CCDA, usedforsecurity=False).digest()).decode(),
        }
        self.bundle: Json = {"resourceType": "Bundle", "type": "searchset", "total": 2}
        self.accepts = "Bearer token-1"
        self.document = CCDA
        routes = [
            Route("/token", self._token, methods=["POST"]),
            Route("/fhir/R4/DocumentReference", self._search),
            Route("/documents/1", self._fetch),
        ]
        self.server = Server(Starlette(routes=routes))

    def good_token(self) -> Response:
        body = {"access_token": f"token-{len(self.forms)}", "token_type": "Bearer", "expires_in": 3600}
        return JSONResponse(body, headers=NO_STORE)

    async def _token(self, request: Request) -> Response:
        self.forms.append(dict(await request.form()))
        return self.token_answer()

    def _search(self, request: Request) -> Response:
        if request.headers["Authorization"] != self.accepts:
            return Response(status_code=401)
        if "page" in request.query_params:
            return JSONResponse({**self.bundle, "entry": [{"resource": self._reference()}]})
        self.patients.append(request.query_params.get("patient"))
        if request.query_params["patient"] != "p-1":
            return JSONResponse({**self.bundle, "total": 0})
        link = [{"relation": "self", "url": "x"}, {"relation": "next", "url": "?page=2"}]
        return JSONResponse({**self.bundle, "link": link, "entry": [{"resource": self._reference()}]})

    def _reference(self) -> Json:
        attachment = {**self.attachment, "url": f"{self.server.base_url}/documents/1"}
        return {"resourceType": "DocumentReference", "content": [{"attachment": attachment}]}

    def _fetch(self, request: Request) -> Response:
        if request.headers["Authorization"] != self.accepts:
            return Response(status_code=401)
        return Response(self.document, media_type="application/xml")


@pytest.fixture
def clinic() -> Iterator[Clinic]:
    one = Clinic()
    with one.server:
        yield one


@pytest.fixture
def caller(clinic: Clinic) -> FederatedCaller:
    origin = clinic.server.base_url
    return FederatedCaller(f"{origin}/token", f"{origin}/fhir/R4/", "hg", "a secret of the clinic", origin)


def test_a_query_follows_pages_and_fetches_with_one_token(clinic: Clinic, caller: FederatedCaller) -> None:
    """Token by form with aud, bare patient id, next links, the raw document; one token for all."""
    found = caller.query("p-1")
    assert len(found) == 2
    assert caller.fetch(found[0]) == CCDA
    assert clinic.patients == ["p-1"]
    assert clinic.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "hg",
            "client_secret": "a secret of the clinic",
            "aud": clinic.server.base_url,
            "scope": "system/DocumentReference.read",
        }
    ]


def test_nobody_is_total_zero(caller: FederatedCaller) -> None:
    """An unknown patient gives an empty list, not an error."""
    assert caller.query("nobody") == []


def test_a_token_that_ended_is_renewed_once(clinic: Clinic, caller: FederatedCaller) -> None:
    """401 gets a new token and one more try."""
    clinic.accepts = "Bearer token-2"
    assert len(caller.query("p-1")) == 2
    clinic.accepts = "Bearer never"
    with pytest.raises(NetworkError, match="401"):
        caller.query("p-1")


SPOILED: dict[str, tuple[str, Json]] = {
    "hash": ("hash", {"hash": "AAAA"}),
    "size": ("size", {"size": 1}),
    "content type": ("content type", {"contentType": "text/html"}),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_document_must_be_what_was_promised(clinic: Clinic, caller: FederatedCaller, case: str) -> None:
    """Hash, size and content type are those of the attachment."""
    words, change = SPOILED[case]
    found = caller.query("p-1")[0]
    found["content"][0]["attachment"] |= change
    with pytest.raises(NetworkError, match=words):
        caller.fetch(found)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("total is missing", {"total": None}),
        ("not the number", {"total": 3}),
        ("searchset", {"type": "collection"}),
        ("searchset", {"resourceType": "OperationOutcome"}),
    ],
)
def test_a_bundle_must_be_whole(clinic: Clinic, caller: FederatedCaller, words: str, change: Json) -> None:
    """A searchset with a total that counts the documents."""
    clinic.bundle |= change
    with pytest.raises(NetworkError, match=words):
        caller.query("p-1")


GOOD = {"access_token": "t", "token_type": "Bearer", "expires_in": 60}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("401", Response(status_code=401)),
        ("no-store", JSONResponse(GOOD)),
        ("token_type", JSONResponse({**GOOD, "token_type": "mac"}, headers=NO_STORE)),
        ("expires_in", JSONResponse({**GOOD, "expires_in": "60"}, headers=NO_STORE)),
        ("access_token", JSONResponse({**GOOD, "access_token": ""}, headers=NO_STORE)),
    ],
)
def test_a_token_must_be_sent_as_documented(
    clinic: Clinic, caller: FederatedCaller, words: str, answer: Response
) -> None:
    """Status, Cache-Control, type, life and value are checked."""
    clinic.token_answer = lambda: answer
    with pytest.raises(NetworkError, match=words):
        caller.query("p-1")


def test_pages_must_end(clinic: Clinic, caller: FederatedCaller) -> None:
    """A next link that leads to itself is noticed."""
    clinic.bundle["link"] = [{"relation": "next", "url": "?page=2"}]
    with pytest.raises(NetworkError, match="do not end"):
        caller.query("p-1")
