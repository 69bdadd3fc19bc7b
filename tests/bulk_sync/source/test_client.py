"""The source's client: which hosts get the token, and interrupted downloads."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, count, repeat
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.smart import Discovery
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.source.files import FileChanged, LinkExpired
from bot_layer.bulk_sync.source.hosts import HostGuard, UnsafeAddress, origin
from bot_layer.bulk_sync.source.records import GroupMembers
from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from medplum_sandbox.server import Server

TEXT = b"".join(b'{"resourceType":"Patient","id":"%d"}\n' % number for number in range(20_000))
PACKED = gzip.compress(TEXT[: len(TEXT) // 2]) + gzip.compress(TEXT[len(TEXT) // 2 :])


@dataclass
class Odd:
    """A source with odd files. ``breaks`` downloads are cut in the middle."""

    breaks: int = 0
    ranges: bool = False
    early: int = 0  # a range starts this many bytes before the requested place
    span: int = 10**9  # this many bytes of a range come at once
    ends_open: bool = False  # all bytes come before the break, and no length reveals that
    versions: Iterator[dict[str, str]] = field(default_factory=lambda: repeat({}))  # headers of each answer
    refusals: int = 0
    discovery_status: int = 200
    login_status: int = 200
    following: str = ""
    redirect: str = ""
    later: bytes = b""  # the text of the file from the second request on
    etag: str = ""  # the version for which If-Range gets a range; any request without the header gets one
    answers: dict[str, Any] = field(default_factory=dict)
    forms: list[dict[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/fhir/.well-known/smart-configuration", self.discovery),
                Route("/token", self.token, methods=["POST"]),
                Route("/fhir/{name:path}", self.file),
            ]
        )

    async def discovery(self, request: Request) -> Response:
        """Where tokens come from."""
        return JSONResponse({"token_endpoint": f"http://{request.headers['host']}/token"}, self.discovery_status)

    async def token(self, request: Request) -> Response:
        """A new token each time."""
        self.forms.append({name: str(value) for name, value in (await request.form()).items()})
        return JSONResponse({"access_token": f"t{len(self.asked)}", "expires_in": 3600}, self.login_status)

    async def file(self, request: Request) -> Response:
        """What the name says."""
        name = request.path_params["name"]
        self.asked.append((name, request.headers.get("authorization", ""), request.headers.get("range", "")))
        if self.refusals:
            self.refusals -= 1
            return PlainTextResponse("", 401)
        if name == "moved":
            return RedirectResponse("/fhir/plain")
        if name == "unsafe":
            return RedirectResponse("http://files.example/x")
        if name == "redirected":
            return RedirectResponse(self.redirect)
        if name == "round":
            return RedirectResponse("/fhir/round")
        if name == "metadata":
            return JSONResponse({}, self.discovery_status)
        if name in self.answers:
            return JSONResponse(self.answers[name])
        if name == "Observation":
            links = [{"relation": "next", "url": self.following or str(request.url)}]
            return JSONResponse({"resourceType": "Bundle", "type": "searchset", "link": links})
        if name.endswith("page"):
            return HTMLResponse("<html>We will be back soon.</html>")
        if name.isdecimal():
            return PlainTextResponse("", int(name))
        text = TEXT if not self.later or len(self.asked) == 1 else self.later
        data = (PACKED if text is TEXT else gzip.compress(text)) if name.startswith("packed") else text
        if name == "packed-short":
            return Response(PACKED[:-5])
        return self._sent(data, request)

    def _sent(self, data: bytes, request: Request) -> Response:
        begin, status, headers = 0, 200, {}
        if self.ranges and "range" in request.headers and request.headers.get("if-range", self.etag) == self.etag:
            begin, status = int(request.headers["range"][6:-1]), 206
            if begin >= len(data):
                return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
            begin = begin - self.early
            whole, data = len(data), data[: begin + self.span]
            headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{whole}"}
        rest = data[begin:]
        broken = self.breaks > 0
        self.breaks -= broken

        async def pieces() -> AsyncIterator[bytes]:
            yield rest if self.ends_open else rest[: len(rest) // 2]
            if broken:
                raise ConnectionError
            yield b"" if self.ends_open else rest[len(rest) // 2 :]

        length = {} if self.ends_open else {"Content-Length": str(len(rest))}
        return StreamingResponse(pieces(), status, headers | length | next(self.versions))


@pytest.fixture
def odd() -> Odd:
    """The behavior."""
    return Odd()


@pytest.fixture
def client(odd: Odd) -> Iterator[PracticeFusion]:
    """A client of it that waits for nothing."""
    with Server(odd.app()) as server:
        settings = SyncSettings(f"{server.base_url}/fhir", "c", "s", types=("Patient",))
        yield PracticeFusion(settings, wait=lambda _: None, tries=3)


def read(client: PracticeFusion, name: str, *, token: bool | None = True) -> bytes:
    """A whole file."""
    file = ExportFile("output", "Patient", f"{client.settings.source}/{name}")
    return b"".join(client.files.chunks(file, requires_token=token))


@pytest.mark.parametrize("name", ["plain", "packed"])
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("breaks", [0, 1, 2])
def test_an_interrupted_download_is_resumed(
    client: PracticeFusion, odd: Odd, name: str, ranges: bool, breaks: int
) -> None:
    """By a range if the server supports it, else from the start up to the place; compressed or not; byte for byte."""
    odd.breaks, odd.ranges = breaks, ranges
    assert read(client, name) == TEXT


@pytest.mark.parametrize("ranges", [False, True])
def test_a_download_that_breaks_behind_its_last_byte_is_whole(client: PracticeFusion, odd: Odd, ranges: bool) -> None:
    """There is no range after the end: the source answers 416."""
    odd.breaks, odd.ranges, odd.ends_open = 1, ranges, True
    assert read(client, "plain") == TEXT


def test_a_range_that_begins_elsewhere_is_used_from_the_right_position(client: PracticeFusion, odd: Odd) -> None:
    """A source may send more than was requested."""
    odd.breaks, odd.ranges, odd.early = 1, True, 100
    assert read(client, "plain") == TEXT


def test_a_range_that_arrives_in_part_is_requested_again(client: PracticeFusion, odd: Odd) -> None:
    """A source may also send less than was requested."""
    odd.breaks, odd.ranges, odd.span = 1, True, 100_000
    assert read(client, "plain") == TEXT


@pytest.mark.parametrize("name", ["plain", "packed"])
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("states", ["ETag", "Last-Modified", "size"])
def test_a_file_that_changes_is_not_joined_to_the_one_before(
    client: PracticeFusion, odd: Odd, name: str, ranges: bool, states: str
) -> None:
    """With a range or a full repeat, the content that was already passed on is compared, not what ETags say."""
    odd.breaks, odd.ranges = 1, ranges
    if states != "size":
        odd.versions = chain([{states: '"1"'}], repeat({states: '"2"'}))
    odd.later = TEXT.replace(b'"7"', b'"x, and longer"' if states == "size" else b'"x"')
    with pytest.raises(FileChanged):
        read(client, name)


@pytest.mark.parametrize("name", ["plain", "packed"])
@pytest.mark.parametrize("ranges", [False, True])
def test_the_same_file_of_machines_with_other_etags_is_whole(
    client: PracticeFusion, odd: Odd, name: str, ranges: bool
) -> None:
    """Each machine behind a balancer may count its own versions."""
    odd.breaks, odd.ranges = 2, ranges
    odd.versions = ({"ETag": f'"{number}"'} for number in count())
    assert read(client, name) == TEXT


def test_an_html_page_is_no_file(client: PracticeFusion) -> None:
    """A gateway's page must not pass for data, whatever its status."""
    with pytest.raises(TransientError):
        read(client, "page")


def test_a_download_that_is_always_interrupted_is_an_error(client: PracticeFusion, odd: Odd) -> None:
    """There are no endless attempts; half a compressed file does not count as a whole one."""
    odd.breaks = 1000
    with pytest.raises(TransientError):
        read(client, "packed")
    odd.breaks = 0
    with pytest.raises(TransientError):
        read(client, "packed-short")


def test_the_token_is_sent_only_where_it_is_required(client: PracticeFusion, odd: Odd) -> None:
    """requiresAccessToken false: none; a redirect: none at the new place."""
    read(client, "plain", token=False)
    assert odd.asked[-1][1] == ""
    odd.asked.clear()
    read(client, "moved")
    assert [bool(token) for _, token, _ in odd.asked] == [True, False]


def test_a_manifest_that_does_not_ask_for_the_token_gets_it_to_no_other_host(odd: Odd, client: PracticeFusion) -> None:
    """Its own host gets it; another never does, even if the manifest asks for it."""
    read(client, "plain", token=None)
    assert odd.asked[-1][1] != ""
    with Server(odd.app()) as other:
        file = ExportFile("output", "Patient", f"{other.base_url}/fhir/plain")
        for requires in (None, True):
            assert b"".join(client.files.chunks(file, requires_token=requires)) == TEXT
            assert odd.asked[-1][1] == ""


def test_a_range_is_requested_of_the_same_version(client: PracticeFusion, odd: Odd) -> None:
    """The answer to a range need not state the version: then only the server can tell that the file changed."""
    odd.breaks, odd.ranges, odd.etag = 1, True, '"2"'
    odd.versions = chain([{"ETag": '"1"'}], repeat({}))
    odd.later = TEXT.replace(b'"7"', b'"x"')
    with pytest.raises(FileChanged):
        read(client, "plain")


def test_addresses_without_tls_get_nothing(client: PracticeFusion) -> None:
    """Not even a request."""
    with pytest.raises(PermanentError) as caught:
        read(client, "unsafe")
    assert caught.value.code == "unsafe-address"


ADDRESSES = {
    "public.example": ("8.8.4.4",),
    "inside.example": ("10.1.2.3",),
    "both.example": ("8.8.8.8", "192.168.0.7"),
    "metadata.example": ("169.254.169.254",),
    "home.example": ("::1",),
    "store.internal": ("10.9.9.9",),
    "ehr.example": ("8.8.8.8",),
}


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://public.example/x", True),
        ("https://8.8.8.8/x", True),
        ("https://unknown.example/x", True),
        ("http://public.example/x", False),
        ("https://inside.example/x", False),
        ("https://both.example/x", False),
        ("https://metadata.example/latest", False),
        ("https://home.example/x", False),
        ("https://169.254.169.254/latest", False),
        ("https://10.0.0.1/x", False),
        ("https://[::ffff:10.0.0.1]/x", False),
        ("https://[64:ff9b::a00:1]/x", False),
        ("https://[2002:7f00:1::]/x", False),
        ("https://[::10.0.0.1]/x", False),
        ("https://[fd00::1]/x", False),
        ("https://localhost/x", False),
        ("https://127.0.0.1.:8443/x", False),
        ("http://0.0.0.0/x", False),
        ("ftp://public.example/x", False),
        ("https://store.internal/x", True),
        ("http://store.internal/x", True),
    ],
)
def test_a_public_source_reaches_no_private_network(url: str, allowed: bool) -> None:
    """The resolved address counts, not the name; a setting allows a host."""
    guard = HostGuard("https://ehr.example/fhir", frozenset({"store.internal"}), lambda host: ADDRESSES.get(host, ()))
    if allowed:
        guard.check(url)
    else:
        with pytest.raises(UnsafeAddress):
            guard.check(url)


def test_a_source_on_a_private_network_may_lead_to_it() -> None:
    """A clinic's own server has its files nearby; this machine and link-local addresses stay forbidden."""
    guard = HostGuard("https://inside.example/fhir", frozenset(), lambda host: ADDRESSES.get(host, ()))
    for good in ("https://inside.example/1", "https://192.168.3.4/x", "https://public.example/x", "http://10.0.0.9/x"):
        guard.check(good)
    for bad in ("https://home.example/x", "https://metadata.example/x"):
        with pytest.raises(UnsafeAddress):
            guard.check(bad)


def test_a_redirect_is_checked_like_an_address(client: PracticeFusion, odd: Odd) -> None:
    """The first address may be harmless."""
    odd.redirect = "https://10.0.0.1/secret"
    with pytest.raises(UnsafeAddress):
        read(client, "redirected")
    with pytest.raises(UnsafeAddress):
        client.files.content(f"{client.settings.source}/redirected")


def test_a_redirect_in_a_circle_ends(client: PracticeFusion) -> None:
    """After a few."""
    with pytest.raises(PermanentError, match="redirects"):
        read(client, "round")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_link_has_an_error_of_its_own(client: PracticeFusion, status: int) -> None:
    """So that the manifest is fetched again."""
    with pytest.raises(LinkExpired):
        read(client, str(status))
    with pytest.raises(PermanentError):
        read(client, "418")
    with pytest.raises(TransientError):
        read(client, "503")


def test_a_refused_token_is_renewed(client: PracticeFusion, odd: Odd) -> None:
    """And the request sent again; a third refusal is final."""
    odd.refusals = 1
    assert read(client, "plain") == TEXT
    first, second = (token for _, token, _ in odd.asked)
    assert first != second
    odd.refusals = 3
    with pytest.raises(AuthError):
        client.records.read("Patient", "1")


def test_no_other_host_gets_the_token(client: PracticeFusion, odd: Odd) -> None:
    """A status address elsewhere is refused before anything is sent."""
    for call in (client.exports.status, client.exports.cancel):
        with pytest.raises(PermanentError) as caught:
            call("https://elsewhere.example/status/1")
        assert caught.value.code == "foreign-host"
    assert odd.asked == []


@pytest.mark.parametrize(
    "other",
    [
        "https://elsewhere.example\\@{host}/x",
        "https://{host}@elsewhere.example/x",
        "https://{host}.elsewhere.example/x",
        "https://elsewhere.example#@{host}/x",
        "https://{host}:1/x",
        "http://{host}/x",
    ],
)
def test_a_host_is_read_as_the_connection_reads_it(other: str) -> None:
    """What merely looks like the source's host is another one."""
    place = other.format(host="api.practice.example")
    try:
        found = origin(place)
    except UnsafeAddress:
        return
    assert found != origin("https://api.practice.example/fhir")


def test_one_host_may_be_written_in_several_ways() -> None:
    """Case, a last dot and the default port make no other host."""
    same = {origin(f"https://{each}/x") for each in ("API.example", "api.example:443", "api.example.")}
    assert same == {("https", "api.example", 443)}


@pytest.mark.parametrize("url", ["https://[::1", "https://h:99999/x", "https://", "https://a]b/x", "//h/x"])
def test_an_address_that_cannot_be_read_is_refused(client: PracticeFusion, url: str) -> None:
    """As one without TLS is, before anything is sent."""
    file = ExportFile("output", "Patient", url)
    with pytest.raises(PermanentError):
        list(client.files.chunks(file, requires_token=False))
    with pytest.raises(PermanentError):
        client.exports.status(url)


def test_a_source_that_is_busy_is_not_taken_for_one_without_discovery(odd: Odd, client: PracticeFusion) -> None:
    """What may work later is no fault of the settings."""
    odd.discovery_status = 503
    with pytest.raises(TransientError):
        client.login.discover()


def test_a_token_endpoint_that_moved_is_found_again(client: PracticeFusion, odd: Odd) -> None:
    """Even if the old one does not answer at all."""
    client.login.discovery = Discovery("http://127.0.0.1:1/token")
    client.login.granted = ("system/Patient.rs",)
    assert client.login.token()
    assert len(odd.forms) == 1


def test_a_refused_login_is_not_repeated_where_nothing_moved(client: PracticeFusion, odd: Odd) -> None:
    """Some sources lock a client out that asks again and again."""
    odd.login_status = 401
    client.login.discovery = Discovery(client.settings.source.removesuffix("/fhir") + "/token")
    client.login.granted = ("system/Patient.rs",)
    with pytest.raises(AuthError):
        client.login.token()
    assert len(odd.forms) == 1


def login_with(client: PracticeFusion, key: str, **settings: str) -> None:
    """Log in again with a key."""
    changed = replace(client.settings, private_key=key, key_id="k", **settings)  # type: ignore[arg-type] # all are text
    PracticeFusion(changed, wait=lambda _: None, tries=1).login.token()


def pem(key: PrivateKeyTypes, password: bytes = b"") -> str:
    """A key as text."""
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked).decode()


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    ("key", "asked", "used"),
    [(RSA, "", "RS384"), (RSA, "RS256", "RS256"), (P384, "", "ES384"), (P384, "ES384", "ES384"), (P256, "", "ES256")],
)
def test_an_assertion_names_its_key_and_lives_five_minutes(
    client: PracticeFusion, odd: Odd, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, asked: str, used: str
) -> None:
    """Each login has a new jti; the server's checks of it are those of the guide."""
    for _ in range(2):
        login_with(client, pem(key), algorithm=asked, key_url="https://app.example/jwks.json")
    assertions = [each["client_assertion"] for each in odd.forms]
    header = jwt.get_unverified_header(assertions[0])
    assert header == {"alg": used, "kid": "k", "jku": "https://app.example/jwks.json", "typ": "JWT"}
    place = client.settings.source.removesuffix("/fhir") + "/token"
    claims = [jwt.decode(each, key.public_key(), algorithms=[used], audience=place) for each in assertions]
    assert claims[0]["iss"] == claims[0]["sub"] == "c"
    assert claims[0]["exp"] - claims[0]["iat"] <= 300
    assert claims[0]["jti"] != claims[1]["jti"]
    assert "client_secret" not in odd.forms[0]


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        pytest.param(pem(P256), "ES384", id="another curve"),
        pytest.param(pem(P384), "RS384", id="another kind"),
        pytest.param(pem(RSA), "ES384", id="another kind, too"),
        pytest.param(pem(RSA), "HS256", id="no public key"),
        pytest.param(pem(RSA), "none", id="no signature"),
        pytest.param(pem(RSA, b"a password"), "RS384", id="locked"),
        pytest.param(pem(RSA, b"a password"), "", id="locked, nothing asked"),
        pytest.param("nonsense", "RS384", id="no key"),
        pytest.param(pem(ed25519.Ed25519PrivateKey.generate()), "", id="a kind that SMART does not know"),
        pytest.param(pem(ec.generate_private_key(ec.SECP521R1())), "", id="a curve that SMART does not know"),
    ],
)
def test_an_unsuitable_key_is_reported_before_anything_is_sent(
    client: PracticeFusion, odd: Odd, key: str, algorithm: str
) -> None:
    """The operator learns which setting to change; the key is in no message."""
    with pytest.raises(ConfigError) as caught:
        login_with(client, key, algorithm=algorithm)
    assert "PF_PRIVATE_KEY" in caught.value.message
    assert odd.forms == []


def test_pages_that_lead_to_themselves_end(client: PracticeFusion, odd: Odd) -> None:
    """No page limit is not the same as no end; a wrong count of pages would be silent, so this is not."""
    with pytest.raises(PermanentError) as caught:
        list(client.records.search("Observation", "patient=1"))
    assert caught.value.code == "endless-pages"
    assert len([name for name, _, _ in odd.asked if name == "Observation"]) == 1


def test_the_next_page_of_a_search_may_not_be_on_another_host(client: PracticeFusion, odd: Odd) -> None:
    """Otherwise the token would be sent there."""
    odd.following = "https://elsewhere.example/fhir/Observation?page=2"
    with pytest.raises(PermanentError) as caught:
        list(client.records.search("Observation", "patient=1"))
    assert caught.value.code == "foreign-host"


def test_a_groups_members_are_its_patients(client: PracticeFusion, odd: Odd) -> None:
    """Each once, by relative or absolute reference, without inactive members and non-patients; odd ones are skipped."""
    references = (
        "Patient/1",
        f"{client.settings.source}/Patient/2",
        "Patient/1/_history/3",
        "Device/4",
        "Patient/a&b=c",
    )
    members: list[Any] = [{"entity": {"reference": each}} for each in references]
    members += [
        "x",
        {"entity": "x"},
        {},
        {"entity": {"reference": 7}},
        {"entity": {"reference": "Patient/5"}, "inactive": True},
    ]
    odd.answers = {
        "Group/g": {"resourceType": "Group", "member": members},
        "Group/odd": {"resourceType": "Group", "member": "x"},
        "Group/other": {"resourceType": "OperationOutcome"},
    }
    assert client.records.group("g") == GroupMembers(("1", "2"))
    assert client.records.group("odd") == GroupMembers(())
    assert client.records.group("other") is None


ODD_SEARCHES: list[Any] = [
    [],
    {},
    {"resourceType": "OperationOutcome"},
    {"resourceType": "Bundle", "type": "searchset", "entry": ["x"], "link": ["x"]},
    {"resourceType": "Bundle", "type": "searchset", "total": 1},
    "page",
]


@pytest.mark.parametrize("answer", ODD_SEARCHES)
def test_an_unreadable_answer_to_a_search_does_not_count_as_no_match(
    client: PracticeFusion, odd: Odd, answer: Any
) -> None:
    """A gateway's page has status 200 too: if it counted as empty, data would be skipped and the time stamp moved."""
    kind = "page" if answer == "page" else "Condition"
    odd.answers = {"Condition": answer}
    with pytest.raises(TransientError) as caught:
        list(client.records.search(kind, "patient=1"))
    assert caught.value.code == "unreadable-answer"


def test_a_page_in_place_of_a_group_does_not_count_as_an_empty_group(client: PracticeFusion) -> None:
    """Nor that a resource was deleted."""
    for ask in (lambda: client.records.group("page"), lambda: client.records.read("Group", "page")):
        with pytest.raises(TransientError):
            ask()
