"""Documents of sources with unusual answers: the document is stored, or its link stays and the report says so."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from bot_layer.fhir.json import Json
from tests.bulk_sync.export_server import RESOURCES, Reply, practice
from tests.bulk_sync.test_other_sources import ended
from tests.bulk_sync.world import run_as_bot

pytestmark = [pytest.mark.no_cover, pytest.mark.one_login]  # every second one runs as the bot

PDF = b"%PDF-1.7 a document\n%%EOF"
HASH = base64.b64encode(hashlib.sha1(PDF, usedforsecurity=False).digest()).decode()


def binary(**fields: Any) -> Json:
    """The document as a FHIR Binary."""
    data = base64.b64encode(PDF).decode()
    return {"resourceType": "Binary", "id": "b1", "contentType": "application/pdf", "data": data} | fields


@dataclass(frozen=True)
class Answer:
    """What the link answers, and whether that is the document."""

    reply: Reply
    stored: bool
    attachment: Json | None = None


def plain(body: bytes, kind: str = "application/pdf", **headers: str) -> Reply:
    """An answer of a content type."""
    return Reply(200, body, {"Content-Type": kind} | {name.replace("_", "-"): text for name, text in headers.items()})


XML = (
    '<Binary xmlns="http://hl7.org/fhir"><contentType value="application/pdf"/>'
    f'<data value="{binary()["data"]}"/></Binary>'
)
OUTCOME = json.dumps({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "login"}]}).encode()
ANSWERS = {
    "itself": Answer(plain(PDF), stored=True),
    "itself, as octets": Answer(plain(PDF, "application/octet-stream"), stored=True),
    "itself, with odd letters in its type": Answer(plain(PDF, "application/\xfc"), stored=True),
    "gzip": Answer(plain(gzip.compress(PDF), Content_Encoding="gzip"), stored=True),
    "deflate": Answer(plain(zlib.compress(PDF), Content_Encoding="deflate"), stored=True),
    "identity": Answer(plain(PDF, Content_Encoding="identity"), stored=True),
    "br": Answer(plain(PDF[::-1], Content_Encoding="br"), stored=False),
    "a Binary": Answer(plain(json.dumps(binary()).encode(), "application/fhir+json"), stored=True),
    "a Binary as plain JSON": Answer(plain(json.dumps(binary(), indent=2).encode(), "application/json"), stored=True),
    "a Binary under the document's type": Answer(plain(json.dumps(binary()).encode()), stored=True),
    "a Binary behind a byte order mark": Answer(plain(b"\xef\xbb\xbf" + json.dumps(binary()).encode()), stored=True),
    "a Binary as XML": Answer(plain(XML.encode(), "application/fhir+xml"), stored=True),
    "a Binary as XML behind a byte order mark": Answer(plain(b"\xef\xbb\xbf" + XML.encode()), stored=True),
    "a Binary without data": Answer(
        plain(json.dumps(binary(data=None)).encode(), "application/fhir+json"), stored=False
    ),
    "a Binary with data that is not base64": Answer(plain(json.dumps(binary(data="ü")).encode()), stored=False),
    "an outcome": Answer(plain(OUTCOME, "application/fhir+json"), stored=False),
    "an outcome under the document's type": Answer(plain(OUTCOME), stored=False),
    "a page": Answer(plain(b"<!DOCTYPE html><html>Sign in</html>", "text/html"), stored=False),
    "a page under the document's type": Answer(plain(b"<!DOCTYPE html><html>Sign in</html>"), stored=False),
    "a page behind a byte order mark": Answer(plain(b"\xef\xbb\xbf\r\n<html>Sign in</html>"), stored=False),
    "nothing": Answer(plain(b""), stored=False),
    "204": Answer(Reply(204), stored=False),
    "404": Answer(Reply(404), stored=False),
    "410": Answer(Reply(410), stored=False),
    "403": Answer(Reply(403), stored=False),
    "another length": Answer(plain(PDF), stored=False, attachment={"size": 3}),
    "another hash": Answer(plain(PDF), stored=False, attachment={"hash": "AAAA"}),
    "its length and hash": Answer(plain(PDF), stored=True, attachment={"size": len(PDF), "hash": HASH}),
    "a redirect to a private network": Answer(Reply(302, headers={"Location": "https://10.1.2.3/"}), stored=False),
    "a redirect to a file": Answer(Reply(302, headers={"Location": "file:///etc/passwd"}), stored=False),
    "a redirect beside it": Answer(Reply(302, headers={"Location": "real"}), stored=True),
}
LINKS: dict[str, Callable[[str], str]] = {
    "absolute": lambda base: f"{base}/Binary/b1",
    "relative": lambda _: "Binary/b1",
    "from the root": lambda _: "/fhir/Binary/b1",
    "of a version": lambda base: f"{base}/Binary/b1/_history/1",
    "elsewhere on the host": lambda base: base.replace("/fhir", "/files/b1"),
}


def document(url: str, attachment: Json | None) -> Json:
    """A DocumentReference with this link."""
    return {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": {"contentType": "application/pdf", "url": url} | (attachment or {})}],
    }


def copied(answer: Answer, link: str) -> tuple[bytes | None, str]:
    """The content in Medplum, None if the link still leads to the source; and the report."""
    with practice(*RESOURCES) as (both, source):
        both.settings["PF_RESOURCE_TYPES"] = "Patient,DocumentReference"
        source.resources.append(document(LINKS[link](source.base_url), answer.attachment))
        for path in ("/fhir/Binary/b1", "/files/b1"):
            source.on(path, lambda *_: answer.reply)
        for path in ("/fhir/Binary/real", "/files/real"):
            source.on(path, lambda *_: plain(PDF))
        ended(both.run(hydrate=False))
        (stored,) = both.by_source_id("DocumentReference")["d1"]
        url = stored["content"][0]["attachment"]["url"]
        report = str(both.stored("Task")[0]["output"])
        # The whole host: the ports of both servers often begin with the same digits.
        return (None if urlsplit(url).netloc == source.host else both.content(url)), report


@pytest.mark.parametrize("name", ANSWERS)
def test_only_the_document_is_stored_as_the_document(name: str) -> None:
    """Any other answer leaves the link to the source, and the report says so."""
    run_as_bot(bot=bool(list(ANSWERS).index(name) % 2))
    answer = ANSWERS[name]
    content, report = copied(answer, "absolute")
    assert content == (PDF if answer.stored else None), report
    assert ("not-copied" in report or "failed-resources" in report) is not answer.stored


@pytest.mark.parametrize("link", LINKS)
def test_a_link_of_any_form_is_followed(link: str) -> None:
    """Relative to the base, to the host, or absolute."""
    run_as_bot(bot=bool(list(LINKS).index(link) % 2))
    assert copied(ANSWERS["itself"], link)[0] == PDF
