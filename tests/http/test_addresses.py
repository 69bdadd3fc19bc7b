"""Addresses are read as the connection reads them, and no parameter changes a path."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import httpx
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from bot_layer.errors import ConfigError, InputError
from bot_layer.http.addresses import network, origin, parse, path, require_safe_url

HOSTILE = [
    "",
    ".",
    "..",
    "../PractitionerRole/x",
    "x/../y",
    "x?_format=xml&y=1",
    "x#y",
    "x%2f..%2fy",
    "x\\y",
    "x y",
    "x\ny",
    "\N{FULLWIDTH FULL STOP}",
    "a" * 65,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_text_that_is_not_a_fhir_id_is_refused(value: str) -> None:
    """An id from Medplum's data never changes the path of a request."""
    with pytest.raises(InputError) as caught:
        path("Practitioner/{id}", id=value)
    assert caught.value.code == "invalid-id"
    assert len(value) < 3 or value not in caught.value.message


def test_a_path_keeps_its_template_for_errors() -> None:
    """The text goes into the URL, the template into errors and traces."""
    made = path("{type}/{id}/_history/{version}", type="Patient", id="a-1.b", version="7")
    assert (str(made), made.template) == ("Patient/a-1.b/_history/7", "{type}/{id}/_history/{version}")
    with pytest.raises(InputError):
        path("{type}/{id}", type="../Patient", id="1")


@given(st.text(min_size=1))
@example("../x")
@example("a?b#c%2e")
def test_another_parameter_is_one_step_of_the_path(value: str) -> None:
    """Any value is quoted; the server decodes the original."""
    if value in {".", ".."} or not value.isascii():
        return
    url = f"https://partner.example/base/{path('projects/{project}', project=value)}"
    sent = requests.Request("GET", url).prepare().url or ""
    parts = urlsplit(sent)
    assert (parts.query, parts.fragment, parts.path.count("/")) == ("", "", 3)
    assert unquote(parts.path.rpartition("/")[2]) == value


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example\\@127.0.0.1/",
        "http://evil.example@127.0.0.1/",
        "http://127.0.0.1@evil.example/",
        "http://127.0.0.1\t.evil.example/",
        "http://127.0.0.1 /",
        "http://0.0.0.0/",
        "http://[::]/",
        "https://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://192.0.2.1/",
        "http://198.51.100.7/",
        "http://203.0.113.9/",
        "http://[2001:db8::1]/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://8.8.8.8/",
        "http://2130706433/",
        "http://127.1/",
        "http://a.example/",
        "http://localhost.example/",
        "ftp://127.0.0.1/",
        "https://",
        "//127.0.0.1/",
        "127.0.0.1",
        "",
        "http://[::1",
        "http://127.0.0.1:99999999/",
    ],
)
def test_an_unsafe_address_is_refused(url: str) -> None:
    """Plain HTTP is only for loopback and private networks; no service has a special address."""
    with pytest.raises(ConfigError) as caught:
        require_safe_url(url, "Partner")
    assert caught.value.code == "unsafe-address"


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/x",
        "https://8.8.8.8/",
        "http://localhost:1/x",
        "http://127.0.0.1/",
        "http://127.8.9.1:8103/",
        "http://[::1]:8103/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.1.2.3/",
        "http://172.16.0.9/",
        "http://192.168.1.1/fhir",
        "http://[fd00::7]/",
    ],
)
def test_a_safe_address_passes(url: str) -> None:
    """HTTPS anywhere; HTTP to this machine or a private network."""
    require_safe_url(url, "Partner")


@given(
    st.from_regex(r"https?://[a-z0-9.\\@:\[\]\t /?#%-]{1,40}", fullmatch=True)
    | st.sampled_from(["http://a.example\\@b.example/", "http://a@b/", "http://a:1@b:2/"])
)
def test_every_address_that_passes_is_the_same_host_to_every_client(url: str) -> None:
    """requests and httpx connect to the host that was checked: the checks cannot be led astray."""
    try:
        scheme, host, port = origin(url)
    except ValueError:
        return
    try:
        prepared = requests.Request("GET", url).prepare().url or ""
        theirs = httpx.URL(url)
    except (requests.RequestException, httpx.InvalidURL):
        return
    bare = host.strip("[]")
    assert (urlsplit(prepared).hostname or "").rstrip(".") == bare
    assert theirs.host.rstrip(".") == bare
    assert (theirs.scheme, theirs.port or {"http": 80, "https": 443}[scheme]) == (scheme, port)


def test_an_origin_has_a_port() -> None:
    """The default port is the same origin as the one that is written out; case and a last dot do not matter."""
    assert origin("https://A.example./x") == origin("https://a.example:443/y?z") == ("https", "a.example", 443)
    assert origin("http://a.example") != origin("https://a.example")
    with pytest.raises(ValueError, match="address"):
        parse("https://a.example\\x")


def test_a_name_is_not_taken_for_an_address() -> None:
    """A name says nothing of the network that it leads to."""
    assert [network(each) for each in ("a.example", "127.0.0.1.example", "localhost", "[::1]")] == [
        "name",
        "name",
        "loopback",
        "loopback",
    ]
