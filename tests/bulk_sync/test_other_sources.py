"""Sources that follow the specification in other ways, or not: what they hold arrives, and what is missing is said.

Each case is a rule of an export server that shares no code with the look-alike. A case says what is in Medplum after
a run, how the run ended, and of which types the time stamp moved.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.run_state import Run, SyncState
from bot_layer.fhir.json import Json
from tests.bulk_sync.export_server import RESOURCES, Asked, ExportServer, Reply, Rule, ndjson, practice
from tests.bulk_sync.world import World, assert_adds_up, run_as_bot

# Whole runs; other tests here cover their code paths; every second one runs as the bot.
pytestmark = [pytest.mark.no_cover, pytest.mark.one_login]

ALL = frozenset({"Patient", "Observation", "Condition"})
NONE: frozenset[str] = frozenset()
EVERYTHING = {"p1", "p2", "o1", "o2"}


@dataclass(frozen=True)
class Case:
    """What a source does, and what a run must make of it."""

    change: Callable[[ExportServer], None]
    ids: set[str] = field(default_factory=lambda: set(EVERYTHING))
    phase: str = "done"
    moved: frozenset[str] = ALL
    said: str = ""  # a part of the report


def imported(both: World) -> set[str]:
    """The source's ids of the resources in Medplum."""
    return {each for kind in sorted(ALL) for each in both.by_source_id(kind)}


def ended(state: SyncState) -> Run:
    """The run of a state."""
    assert state.run is not None
    assert_adds_up(state)
    return state.run


def stamped(state: SyncState) -> set[str]:
    """The types of which a time stamp is stored."""
    return set(state.since.get("g1", {}))


# -- Rules


def manifest(**changes: Any) -> Callable[[ExportServer], None]:
    """A manifest with other fields; None means null, ``...`` removes a field."""

    def rule(_: Asked, reply: Reply) -> Reply:
        body = reply.json() | changes
        return reply.with_json({name: value for name, value in body.items() if value is not ...})

    return lambda source: source.on("/job/", rule)


def outputs(change: Callable[[Json], Json]) -> Callable[[ExportServer], None]:
    """A manifest with other entries in its output."""

    def rule(_: Asked, reply: Reply) -> Reply:
        body = reply.json()
        return reply.with_json(body | {"output": [change(each) for each in body["output"]]})

    return lambda source: source.on("/job/", rule)


def at(path: str, rule: Rule, method: str = "GET") -> Callable[[ExportServer], None]:
    """A source with one rule."""
    return lambda source: source.on(path, rule, method)


def both_rules(*changes: Callable[[ExportServer], None]) -> Callable[[ExportServer], None]:
    """Several changes of one source."""

    def change(source: ExportServer) -> None:
        for each in changes:
            each(source)

    return change


def first(answers: int, reply: Reply) -> Rule:
    """This many answers of this kind come first."""
    return lambda asked, plain: reply if asked.turn <= answers else plain


def always(**changes: Any) -> Rule:
    """The same answer with other parts."""
    return lambda _, reply: replace(reply, **changes)


def headers(**more: str) -> Rule:
    """The same answer with more headers."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return lambda _, reply: replace(reply, headers=reply.headers | named)


def packed(pack: Callable[[bytes], bytes], encoding: str = "") -> Rule:
    """A packed body."""

    def rule(_: Asked, reply: Reply) -> Reply:
        named = {"Content-Encoding": encoding} if encoding else {}
        body = pack(reply.body)
        return replace(reply, body=body, headers=reply.headers | named | {"Content-Length": str(len(body))})

    return rule


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the header of zlib, as some servers send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def lines(kind: str, *files: bytes) -> Callable[[ExportServer], None]:
    """Other files of a type."""
    return lambda source: source.files.update({kind: list(files)})


def error_file(body: bytes, **entry: Any) -> Callable[[ExportServer], None]:
    """A manifest with one error file."""

    def change(source: ExportServer) -> None:
        source.on("/errors", always(status=200, body=body, headers={}))
        url = f"http://{source.host}/errors"
        listed = [{name: value for name, value in ({"type": "OperationOutcome", "url": url} | entry).items() if value}]
        manifest(error=listed)(source)

    return change


def deleted_file(*bundles: Any) -> Callable[[ExportServer], None]:
    """A manifest that names o2 as deleted in this way, and exports the rest."""

    def change(source: ExportServer) -> None:
        source.resources = [each for each in source.resources if each["id"] != "o2"]
        text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in bundles)
        body = text.replace("BASE", source.base_url).encode()
        source.on("/deleted", always(status=200, body=body, headers={}))
        manifest(deleted=[{"type": "Bundle", "url": f"http://{source.host}/deleted"}])(source)

    return change


def outcome(*issues: Json) -> bytes:
    """An error file with these issues."""
    return ndjson({"resourceType": "OperationOutcome", "issue": list(issues)})


ERROR: Json = {"severity": "error", "code": "exception"}
P1, P2, O1, O2 = RESOURCES
HALF = len(ndjson(O1, O2)) // 2


def newer(resource: Json, day: int, **fields: Any) -> Json:
    """A version of a resource of that day in January."""
    return {**resource, **fields, "meta": {"lastUpdated": f"2026-01-{day:02}T00:00:00Z"}}


# -- Manifests

MANIFESTS = {
    "output is null": Case(manifest(output=None), ids=set()),
    "no output at all": Case(manifest(output=...), ids=set()),
    "output is an object": Case(manifest(output={}), ids=set()),
    "error is null": Case(manifest(error=None)),
    "error is an object": Case(manifest(error={})),
    "deleted is null": Case(manifest(deleted=None)),
    "link is null": Case(manifest(link=None)),
    "an entry that is null": Case(
        lambda source: source.on(
            "/job/", lambda _, reply: reply.with_json(reply.json() | {"output": [None, *reply.json()["output"]]})
        )
    ),
    "the same file named twice": Case(
        lambda source: source.on(
            "/job/", lambda _, reply: reply.with_json(reply.json() | {"output": reply.json()["output"] * 2})
        )
    ),
    "an address on the host": Case(outputs(lambda each: each | {"url": "/file/" + each["url"].partition("/file/")[2]})),
    "an address beside the manifest": Case(
        outputs(lambda each: each | {"url": "../file/" + each["url"].partition("/file/")[2]})
    ),
    "no type": Case(outputs(lambda each: {"url": each["url"]})),
    "counts as text": Case(outputs(lambda each: each | {"count": str(each["count"])})),
    "negative counts": Case(outputs(lambda each: each | {"count": -1})),
    "counts that are too small": Case(outputs(lambda each: each | {"count": 1})),
    "counts that are too large": Case(
        outputs(lambda each: each | ({"count": 9} if each["type"] == "Observation" else {})),
        phase="partial",
        moved=ALL - {"Observation"},
        said="Observation: 7 x ",
    ),
    "an address that nobody can read": Case(
        outputs(lambda each: each | ({"url": "http://[broken"} if each["type"] == "Observation" else {})),
        ids={"p1", "p2"},
        phase="partial",
        moved=ALL - {"Observation"},
        said="Observation: 2 x ",
    ),
    "an address with spaces and letters of any kind": Case(
        outputs(lambda each: each | ({"url": each["url"] + "?a=ü ü"} if each["type"] == "Observation" else {})),
        ids={"p1", "p2"},
        phase="partial",
        moved=ALL - {"Observation"},
    ),
    "an address on a private network": Case(
        outputs(lambda each: each | ({"url": "https://10.1.2.3/o"} if each["type"] == "Observation" else {})),
        ids={"p1", "p2"},
        phase="partial",
        moved=ALL - {"Observation"},
        said="Observation: 2 x ",
    ),
    "no address": Case(
        outputs(lambda each: each | ({"url": None} if each["type"] == "Observation" else {})),
        ids={"p1", "p2"},
        phase="partial",
        moved=ALL - {"Observation"},
    ),
    "requiresAccessToken as text": Case(manifest(requiresAccessToken="true")),
    "no requiresAccessToken": Case(manifest(requiresAccessToken=...)),
    "a byte order mark": Case(at("/job/", lambda _, reply: replace(reply, body=b"\xef\xbb\xbf" + reply.body))),
    "as a page": Case(at("/job/", headers(Content_Type="text/html; charset=ü".encode().decode("latin-1")))),
    "packed": Case(at("/job/", packed(gzip.compress, "gzip"))),
    "an unknown field that is deep": Case(manifest(extension={"a": [[[{"b": None}]]]})),
    "STU4: outcome in place of error": Case(manifest(error=..., outcome=[], outputFormat="application/fhir+ndjson")),
}


# -- Moments

MOMENTS = {
    f"transactionTime {text!r}": Case(manifest(transactionTime=text), moved=moved)
    for text, moved in {
        "2026-01-31T06:00:00+00:00": ALL,
        "2026-01-31T07:00:00.123456789+01:00": ALL,
        "2026-01-31T06:00:00.1Z": ALL,
        "2026-01-31T06:00:00+0000": ALL,
        "2026-01-31t06:00:00z": ALL,
        "2026-01-31 06:00:00Z": ALL,
        "2999-01-01T00:00:00Z": ALL,
        "2026-01-31": NONE,
        "2026-01-31T06:00:00": NONE,
        "2026-01": NONE,
        "Sat, 31 Jan 2026 06:00:00 GMT": NONE,
        "soon": NONE,
        "": NONE,
        "9999-12-31T23:59:59-14:00": ALL,
        "0001-01-01T00:00:00+14:00": NONE,
    }.items()
} | {
    "transactionTime is a number": Case(manifest(transactionTime=1769839200000), moved=NONE),
    "transactionTime is null": Case(manifest(transactionTime=None), moved=NONE),
    "transactionTime is an object": Case(manifest(transactionTime={"value": "2026-01-31T06:00:00Z"}), moved=NONE),
    "a kick-off without a Date": Case(
        at("/fhir/Group/g1/$export", lambda _, reply: replace(reply, headers=reply.headers | {"Date": ""}))
    ),
    "a kick-off with an odd Date": Case(
        at("/fhir/Group/g1/$export", lambda _, reply: replace(reply, headers=reply.headers | {"Date": "31/01/2026"}))
    ),
}


# -- Status requests


def moved_manifest(status: int) -> Callable[[ExportServer], None]:
    """A source whose manifest is at another place of the same host."""

    def change(source: ExportServer) -> None:
        source.on("/job/", lambda asked, _: Reply(status, headers={"Location": f"/moved/{asked.path[5:]}"}))
        source.on("/moved/", lambda asked, _: source.job(asked, asked.path[7:]))

    return change


STATUS = {
    "an empty 200 at first": Case(at("/job/", first(3, Reply(200)))),
    "a page at first": Case(at("/job/", first(2, Reply(200, b"<html>", {"Content-Type": "text/html"})))),
    "an odd X-Progress": Case(at("/job/", first(2, Reply(202, headers={"X-Progress": "50 % \xfc" + "x" * 500})))),
    "202 with an empty manifest": Case(at("/job/", first(2, Reply(202, b'{"output": []}')))),
    "202 with a partial manifest": Case(
        at(
            "/job/",
            first(
                1,
                Reply(
                    202,
                    json.dumps(
                        {
                            "transactionTime": "2026-01-31T06:00:00Z",
                            "output": [{"type": "Patient", "url": "http://127.0.0.1:1/"}],
                        }
                    ).encode(),
                ),
            ),
        )
    ),
    "202 without a body": Case(at("/job/", first(3, Reply(202)))),
    "Retry-After as a date": Case(at("/job/", first(1, Reply(429, headers={"Retry-After": formatdate(usegmt=True)})))),
    "Retry-After long ago": Case(
        at("/job/", first(1, Reply(202, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})))
    ),
    "Retry-After in words": Case(at("/job/", first(1, Reply(503, headers={"Retry-After": "soon"})))),
    "Retry-After negative": Case(at("/job/", first(1, Reply(202, headers={"Retry-After": "-5"})))),
    "Retry-After of an age": Case(at("/job/", first(1, Reply(202, headers={"Retry-After": "9" * 30})))),
    "Retry-After with a fraction": Case(at("/job/", first(1, Reply(202, headers={"Retry-After": "1.5"})))),
    "a transient outcome with 500": Case(
        at(
            "/job/",
            first(
                3,
                Reply(
                    500,
                    json.dumps(
                        {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "transient"}]}
                    ).encode(),
                ),
            ),
        )
    ),
    "a plain 500 twice": Case(at("/job/", first(2, Reply(500)))),
    "502 and 504": Case(at("/job/", first(4, Reply(502)))),
    "401 in the middle": Case(at("/job/", first(1, Reply(401)))),
    "the job vanishes once": Case(at("/job/1", lambda _, __: Reply(404))),
    "the job dies once": Case(at("/job/1", lambda _, __: Reply(500, outcome(ERROR)))),
    "another place of the same host": Case(moved_manifest(302)),
    "303 to the manifest": Case(moved_manifest(303)),
    "the manifest in pages": Case(
        lambda source: source.on(
            "/job/",
            lambda asked, reply: reply.with_json(
                reply.json()
                | {"output": reply.json()["output"][int(asked.query.get("page", ["0"])[0]) :][:1]}
                | ({"link": [{"relation": "next", "url": "?page=1"}]} if not asked.query else {})
            ),
        )
    ),
}


# -- Kick-offs


def refuses(parameter: str, status: int, text: str = "") -> Callable[[ExportServer], None]:
    """A source that knows no such parameter."""

    def rule(asked: Asked, reply: Reply) -> Reply:
        body = {"resourceType": "OperationOutcome", "issue": [{**ERROR, "diagnostics": text}]} if text else {}
        return Reply(status, json.dumps(body).encode()) if parameter in asked.query else reply

    return at("/fhir/Group/g1/$export", rule)


def refuses_type(kind: str, status: int, text: str = "") -> Callable[[ExportServer], None]:
    """A source that exports no such type."""

    def rule(asked: Asked, reply: Reply) -> Reply:
        body = {"resourceType": "OperationOutcome", "issue": [{**ERROR, "diagnostics": text}]} if text else {}
        return Reply(status, json.dumps(body).encode()) if kind in asked.query["_type"][0].split(",") else reply

    return at("/fhir/Group/g1/$export", rule)


def only_post(status: int) -> Callable[[ExportServer], None]:
    """A source that accepts only POST."""
    text = b'{"resourceType": "OperationOutcome", "issue": [{"diagnostics": "use POST"}]}'
    return at("/fhir/Group/g1/$export", always(status=status, body=text, headers={}))


KICKOFFS = {
    "a relative status address": Case(
        at("/fhir/Group/g1/$export", lambda _, reply: replace(reply, headers={"Content-Location": "/job/1"}))
    ),
    "Location in place of Content-Location": Case(
        at(
            "/fhir/Group/g1/$export",
            lambda _, reply: replace(reply, headers={"Location": reply.headers["Content-Location"]}),
        )
    ),
    "200 in place of 202": Case(at("/fhir/Group/g1/$export", always(status=200))),
    "busy with Retry-After": Case(at("/fhir/Group/g1/$export", first(2, Reply(429, headers={"Retry-After": "1"})))),
    "503 at first": Case(at("/fhir/Group/g1/$export", first(2, Reply(503)))),
    "401 at first": Case(at("/fhir/Group/g1/$export", first(1, Reply(401)))),
    "POST alone, 405": Case(only_post(405)),
    "POST alone, 400": Case(only_post(400)),
    "a redirect to the same host": Case(
        at(
            "/fhir/Group/g1/$export",
            lambda *_: Reply(
                307, headers={"Location": "/fhir/v2/Group/g1/$export?_type=Patient,Observation,Condition"}
            ),
        )
    ),
    "no _outputFormat, 400": Case(refuses("_outputFormat", 400, "unknown parameter _outputFormat")),
    "no _outputFormat, 406": Case(refuses("_outputFormat", 406)),
    "no _outputFormat, 415": Case(refuses("_outputFormat", 415, "not supported")),
    "no _outputFormat, 422": Case(refuses("_outputFormat", 422)),
    **{
        f"one type refused with {status} {text}": Case(
            refuses_type("Condition", status, text), moved=ALL - {"Condition"}, said="refused-type"
        )
        for status, text in (
            (400, ""),
            (422, "no"),
            (400, "Condition is not exported"),
            (403, "No access to Condition."),
            (404, "type Condition unknown"),
            (501, "Condition"),
        )
    },
}


# -- Files


def of(kind: str, rule: Rule) -> Callable[[ExportServer], None]:
    """A rule for the files of a type."""
    return at("/file/", lambda asked, reply: rule(asked, reply) if f"/{kind}/" in asked.path else reply)


def breaking(
    times: int, etag: Callable[[Asked], str] = lambda _: "", *, ranges: bool = False
) -> Callable[[ExportServer], None]:
    """Observations of which so many downloads break in the middle."""

    def rule(asked: Asked, reply: Reply) -> Reply:
        tag = {"ETag": etag(asked)} if etag(asked) else {}
        begin = int(asked.headers["range"][6:].rstrip("-")) if ranges and "range" in asked.headers else 0
        if begin:
            size = len(reply.body)
            tag |= {"Content-Range": f"bytes {begin}-{size - 1}/{size}", "Content-Length": str(size - begin)}
            reply = replace(reply, status=206, body=reply.body[begin:])
        reply = replace(reply, headers=reply.headers | tag)
        return replace(reply, cut=HALF) if asked.turn <= times else reply

    return of("Observation", rule)


def skipped(change: Callable[[ExportServer], None]) -> Case:
    """An unreadable file of Observations does not stop the others."""
    return Case(change, ids={"p1", "p2"}, phase="partial", moved=ALL - {"Observation"}, said="Observation: 2 x ")


FILES = {
    "gzip": Case(of("Observation", packed(gzip.compress, "gzip"))),
    "gzip without a header": Case(of("Observation", packed(gzip.compress))),
    "gzip in gzip": Case(of("Observation", packed(lambda data: gzip.compress(gzip.compress(data)), "gzip"))),
    "x-gzip": Case(of("Observation", packed(gzip.compress, "x-gzip"))),
    "deflate": Case(of("Observation", packed(zlib.compress, "deflate"))),
    "deflate without a header": Case(of("Observation", packed(raw_deflate, "deflate"))),
    "identity": Case(of("Observation", packed(lambda data: data, "identity"))),
    "named gzip and plain": Case(of("Observation", packed(lambda data: data, "gzip"))),
    "br, which nobody asked for": skipped(of("Observation", packed(lambda data: data[::-1], "br"))),
    "a byte order mark": Case(lines("Observation", b"\xef\xbb\xbf" + ndjson(O1, O2))),
    "CRLF": Case(lines("Observation", ndjson(O1, O2).replace(b"\n", b"\r\n"))),
    "no last newline": Case(lines("Observation", ndjson(O1, O2).rstrip())),
    "empty lines": Case(lines("Observation", b"\n\n" + ndjson(O1) + b"\r\n \n" + ndjson(O2))),
    "an array": Case(lines("Observation", json.dumps([O1, O2], indent=1).encode())),
    "a Bundle": Case(
        lines(
            "Observation",
            json.dumps({"resourceType": "Bundle", "entry": [{"resource": O1}, {"resource": O2}]}).encode(),
        )
    ),
    "printed over many lines": Case(lines("Observation", *(json.dumps(each, indent=2).encode() for each in (O1, O2)))),
    "printed one after the other": Case(
        lines("Observation", b"\n".join(json.dumps(each, indent=2).encode() for each in (O1, O2)))
    ),
    "empty": Case(lines("Observation", b""), ids={"p1", "p2"}),
    "the same lines in two files": Case(lines("Observation", ndjson(O1, O2), ndjson(O2, O1))),
    "a line that is no JSON": Case(
        lines("Observation", ndjson(O1) + b"{broken\n" + ndjson(O2)), phase="partial", said="bad-line"
    ),
    "a line that is a number": Case(
        lines("Observation", ndjson(O1) + b"12\n" + ndjson(O2)), phase="partial", said="bad-line"
    ),
    "a line that is null": Case(
        lines("Observation", ndjson(O1) + b"null\n" + ndjson(O2)), phase="partial", said="bad-line"
    ),
    "a type in small letters": Case(
        lines("Observation", ndjson(O1, O2, O2 | {"resourceType": "observation", "id": "o3"})), said="note"
    ),
    "a type that is a list": Case(
        lines("Observation", ndjson(O1, O2, O2 | {"resourceType": ["Observation"]})), phase="partial", said="bad-line"
    ),
    "an id that is a number": Case(
        lines("Observation", ndjson(O1, O2, O2 | {"id": 3})), phase="partial", said="bad-line"
    ),
    "an id that is a path": Case(
        lines("Observation", ndjson(O1, O2, O2 | {"id": "../Patient/p1"})), phase="partial", said="bad-line"
    ),
    "meta of an odd shape": Case(
        lines("Observation", ndjson(O1, O2, O2 | {"id": "o3", "meta": [1]})), phase="partial", said="bad-line"
    ),
    "a Subscription": Case(
        lines("Observation", ndjson(O1, O2, {"resourceType": "Subscription", "id": "s"})), said="Subscription"
    ),
    "a Subscription in a Bundle": Case(
        lines(
            "Observation",
            ndjson(
                O1, O2, {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Subscription", "id": "s"}}]}
            ),
        ),
        said="Subscription",
    ),
    "an outcome that is an error": Case(
        lines("Observation", ndjson(O1, O2) + outcome(ERROR)), phase="partial", moved=ALL - {"Observation"}
    ),
    "breaks": Case(breaking(2)),
    "breaks, and resumes with ranges": Case(breaking(2, lambda _: '"a"', ranges=True)),
    "breaks, and each machine has its own ETag": Case(breaking(3, lambda asked: f'"m{asked.turn}"')),
    "breaks, and each machine has its own ETag and ranges": Case(
        breaking(3, lambda asked: f'"m{asked.turn}"', ranges=True)
    ),
    "401 in the middle": Case(of("Observation", first(1, Reply(401)))),
    "429 with a date": Case(of("Observation", first(2, Reply(429, headers={"Retry-After": formatdate(usegmt=True)})))),
    "a link that expires in the middle": Case(
        of(
            "Observation",
            lambda asked, reply: (
                replace(reply, cut=HALF) if asked.turn == 1 else Reply(403) if asked.turn == 2 else reply
            ),
        )
    ),
    "links that expire before the first byte": Case(of("Observation", first(1, Reply(403)))),
    "a page with status 200 at first": Case(
        of("Observation", first(2, Reply(200, b"<html>", {"Content-Type": "text/html"})))
    ),
    "one that is never there": skipped(of("Observation", always(status=404))),
    "one that is refused": skipped(of("Observation", always(status=403))),
    "one that always fails": skipped(of("Observation", always(status=500))),
    "one that cannot be made": skipped(of("Observation", always(status=400, body=outcome(ERROR)))),
    "one that always redirects": skipped(
        of("Observation", lambda asked, _: Reply(302, headers={"Location": asked.path}))
    ),
    "a redirect to a private network": skipped(
        of("Observation", lambda *_: Reply(302, headers={"Location": "https://10.1.2.3/"}))
    ),
    "a redirect to nowhere": skipped(of("Observation", lambda *_: Reply(302, headers={"Location": "http://[broken"}))),
    "a redirect without a place": skipped(of("Observation", lambda *_: Reply(302))),
    "a content type of any letters": Case(of("Observation", headers(Content_Type="application/\xfc"))),
    "octets": Case(of("Observation", headers(Content_Type="application/octet-stream"))),
    "older last": Case(lines("Observation", ndjson(newer(O1, 2), newer(O1, 1, status="amended"), O2))),
}


# -- What was not exported, and what was deleted


def unmoved(change: Callable[[ExportServer], None]) -> Case:
    """The missing resources may be of any type."""
    return Case(change, phase="partial", moved=NONE)


ERRORS = {
    "no type in the entry": unmoved(error_file(outcome(ERROR), type=None)),
    "an entry of another type": Case(
        error_file(outcome(ERROR), type="Observation"), phase="partial", moved=ALL - {"Observation"}
    ),
    "nobody can read the address": unmoved(error_file(b"", url="http://[broken")),
    "on a private network": unmoved(error_file(b"", url="https://10.1.2.3/")),
    "an array": unmoved(error_file(json.dumps([{"resourceType": "OperationOutcome", "issue": [ERROR]}]).encode())),
    "printed over many lines": unmoved(
        error_file(json.dumps({"resourceType": "OperationOutcome", "issue": [ERROR]}, indent=2).encode())
    ),
    "a Bundle of outcomes": unmoved(
        error_file(
            ndjson(
                {
                    "resourceType": "Bundle",
                    "entry": [{"resource": {"resourceType": "OperationOutcome", "issue": [ERROR]}}],
                }
            )
        )
    ),
    "a Bundle of harmless outcomes": Case(
        error_file(
            ndjson(
                {
                    "resourceType": "Bundle",
                    "entry": [
                        {
                            "resource": {
                                "resourceType": "OperationOutcome",
                                "issue": [ERROR | {"severity": "information"}],
                            }
                        }
                    ],
                }
            )
        )
    ),
    "an issue that is an object": unmoved(error_file(ndjson({"resourceType": "OperationOutcome", "issue": ERROR}))),
    "an issue without severity": unmoved(error_file(outcome({"code": "exception"}))),
    "a severity in capitals": Case(error_file(outcome(ERROR | {"severity": "INFORMATION"}))),
    "a fatal one": unmoved(error_file(outcome(ERROR | {"severity": "fatal"}))),
    "a warning": Case(error_file(outcome(ERROR | {"severity": "warning"})), said="note"),
    "information": Case(error_file(outcome(ERROR | {"severity": "information"}))),
    "empty": Case(error_file(b"")),
    "packed": Case(error_file(gzip.compress(outcome(ERROR | {"severity": "information"})))),
    "one type by its place": Case(
        error_file(outcome(ERROR | {"expression": ["Condition.code"]})), phase="partial", moved=ALL - {"Condition"}
    ),
    "a manifest with error and outcome": unmoved(both_rules(error_file(outcome(ERROR)), manifest(outcome=[]))),
}


def removal(url: str, method: str = "DELETE") -> Json:
    """A Bundle that removes one resource."""
    return {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": method, "url": url}}]}


GONE = {"p1", "p2", "o1"}
DELETIONS = {
    "relative": Case(deleted_file(removal("Observation/o2")), GONE),
    "from the root": Case(deleted_file(removal("/Observation/o2")), GONE),
    "absolute": Case(deleted_file(removal("BASE/Observation/o2")), GONE),
    "of a version": Case(deleted_file(removal("Observation/o2/_history/3")), GONE),
    "in small letters": Case(deleted_file(removal("Observation/o2", "delete")), GONE),
    "all in one Bundle": Case(
        deleted_file(
            {
                "resourceType": "Bundle",
                "entry": [{"request": {"method": "DELETE", "url": f"Observation/{each}"}} for each in ("o2", "o7")],
            }
        ),
        GONE,
    ),
    "by fullUrl": Case(
        deleted_file(
            {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [
                    {"fullUrl": "BASE/Observation/o2", "request": {"method": "DELETE", "url": "BASE/Observation/o2"}}
                ],
            }
        ),
        GONE,
    ),
    "a Bundle of a history": Case(
        deleted_file(json.dumps(removal("Observation/o2") | {"type": "history"}, indent=1)), GONE
    ),
    "the resources themselves": Case(deleted_file({"resourceType": "Observation", "id": "o2"}), GONE),
    "of another server": Case(
        deleted_file(removal("https://elsewhere.example/fhir/Observation/o2")), EVERYTHING, phase="partial"
    ),
    "by a query": Case(deleted_file(removal("Observation?identifier=a%7Cb")), EVERYTHING, phase="partial"),
    "a line that is no JSON": Case(
        deleted_file(removal("Observation/o2"), "{broken"), GONE, phase="partial", said="bad-line"
    ),
    "nothing of ours": Case(deleted_file(removal("Subscription/s1")), EVERYTHING),
}


SOURCES = {
    f"{group}: {name}": case
    for group, cases in (
        ("manifest", MANIFESTS),
        ("moment", MOMENTS),
        ("status", STATUS),
        ("kick-off", KICKOFFS),
        ("file", FILES),
        ("errors", ERRORS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", SOURCES)
def test_everything_of_a_source_arrives_and_what_is_missing_is_reported(name: str) -> None:
    """The ids in Medplum, the end of the run, the types whose time stamp moved, and the report."""
    case = SOURCES[name]
    run_as_bot(bot=bool(list(SOURCES).index(name) % 2))
    with practice() as (both, source):
        case.change(source)
        state = both.run()
        run = ended(state)
        assert (run.phase, run.problem) == (case.phase, "")
        assert imported(both) == case.ids
        assert stamped(state) == case.moved
        assert case.said in str(both.stored("Task")[0]["output"])
        assert both.stored("Subscription") == []


@pytest.mark.parametrize("name", DELETIONS)
def test_a_deletion_is_carried_out_in_every_form_in_which_it_is_named(name: str) -> None:
    """And nothing else; a deletion that cannot be read is no success."""
    case = DELETIONS[name]
    run_as_bot(bot=bool(list(DELETIONS).index(name) % 2))
    with practice() as (both, source):
        assert ended(both.run()).phase == "done"
        case.change(source)
        run = ended(both.run())
        assert (run.phase, run.problem) == (case.phase, "")
        assert imported(both) == case.ids


def test_a_source_whose_every_answer_fails_ends_with_a_reason() -> None:
    """A status that is always an empty 200 is a failure, not a practice without patients."""
    with practice() as (both, source):
        source.on("/job/", always(status=200, body=b""))
        with pytest.raises(Exception, match="without a manifest"):
            both.run(Options())
        assert stamped(both.sync().store.load()) == set()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_file_that_a_run_could_not_fetch_is_fetched_by_the_next(status: int) -> None:
    """The run is partial and the time stamp stays, so that the next run requests the type again."""
    with practice() as (both, source):
        lost = ("1", "2") if status != 500 else ("1",)  # a link that expired is worth a second export
        for job in lost:
            source.on(f"/file/{job}/Observation", lambda *_: Reply(status))
        assert ended(both.run()).phase == "partial"
        assert both.by_source_id("Observation") == {}
        assert ended(both.run()).phase == "done"
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}
