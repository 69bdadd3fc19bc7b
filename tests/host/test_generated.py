"""Generated inputs and answers over every handler and every route: nothing is unforeseen, nothing takes too long.

An input is a fixture's event in which something was replaced or left out. An answer is one that no healthy partner
gives. Whatever they are, a bot ends with a stated code, and a route with a status below 500.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot_layer.bot.collection import load
from bot_layer.demo.world import World
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.host.invoke import Result, invoke
from tests import loopback
from tests.cases import PLACEHOLDER, cases

BOTS: Final = load()
QUICK: Final = {"BOT_RETRIES": "0", "BOT_BACKOFF_SECONDS": "0", "BOT_LONGEST_WAIT_SECONDS": "0"}
DEEP: Final = b"[" * 100_000
HL7: Final = "MSH|^~\\&|EHR|CLINIC|HUB|HG|20260504||ADT^A04|1|P|2.5.1\rPID|1||7^^^CLINIC^MR||Example^Ann||19800101|F\r"
examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

odd_values: st.SearchStrategy[Any] = st.sampled_from(
    (
        *(None, True, 0, -1, 10**400, 1.5, "", "x", "\ud800", "é\0", [], [None], ["x"], [[]], {}, {"x": None}),
        *("Patient/.", "Patient/..", "../Patient/x", "Practitioner/x?_format=xml", {"reference": "Patient/."}),
        *({"resourceType": "Patient"}, {"resourceType": []}, {"deletedResource": []}),
        *("MSH|^^^^|", HL7.replace("^~", "||")),
    )
)
odd_hl7 = st.builds(
    lambda text, at, sign: text[:at] + sign + text[at + 1 :],
    st.just(HL7),
    st.integers(0, len(HL7) - 1),
    st.sampled_from(["|", "^", "~", "\\", "&", "\r", "\n", "\ud800", "\0", "é", ""]),
)
odd_bodies = st.sampled_from(
    (
        *(
            b"",
            b"hello",
            b"<html>busy</html>",
            DEEP,
            b'{"entry":' + DEEP,
            b"\xff\xfe",
            b'"\\ud800"',
            b"null",
            b"[]",
            b"7",
        ),
        *(b'{"entry":[null]}', b'{"entry":["x"]}', b'{"entry":{}}', b'{"entry":[{"resource":null}]}', b'{"total":"x"}'),
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Practitioner","identifier":[null]}}]}',
        *(b'{"resourceType":"Practitioner","id":[],"name":{},"meta":[]}', b'{"access_token":"t\xc3\xb6k"}'),
        *(b'{"access_token":7}', b'{"access_token":"t","expires_in":"soon"}', b'{"issue":"x"}', b'{"link":[{}]}'),
    )
)
odd_answers = st.tuples(
    st.sampled_from([200, 201, 204, 301, 400, 401, 404, 409, 410, 412, 429, 500, 503]),
    odd_bodies,
    st.sampled_from(["", "soon", "-5", "²", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "1.5"]),
)


class OddPartner:
    """A server that gives one odd answer to everything, optionally except its token endpoint."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes, str] = (200, b"", "")
        self.gives_tokens = True
        partner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body, retry_after = partner.answer
                if partner.gives_tokens and "token" in self.path:
                    status, body = 200, b'{"access_token":"t","expires_in":3600,"token_type":"Bearer"}'
                self.send_response(status)
                if retry_after:
                    self.send_header("Retry-After", retry_after)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(0 if status == 204 else len(body)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:  # the standard library's name
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def partner() -> Iterator[OddPartner]:
    made = OddPartner()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as running:
        request = Request(BOTS)
        assert carry_out(running.client(), request, survey(running.client(), request)).error is None
        yield running


def event(case: Any, base_url: str) -> Json:
    """A fixture's event, sent by a server at this address that is every partner, too."""
    text = json.dumps(case.read("event.json"))
    bound: Json = json.loads(PLACEHOLDER.sub("7d4a1b8e-0000-4000-8000-000000000001", text))
    addresses = {"HEALTH_GORILLA_BASE_URL": f"{base_url}/fhir", "HEALTH_GORILLA_TOKEN_URL": f"{base_url}/oauth/token"}
    login = {"CLIENT_ID": "c", "CLIENT_SECRET": "s" * 40, "ISSUER": "i", "SUBJECT": "u", "TENANT_ID": "t-1"}
    secrets = addresses | {f"HEALTH_GORILLA_{name}": value for name, value in login.items()} | QUICK
    secrets |= {"HEALTH_GORILLA_AUDIENCE": addresses["HEALTH_GORILLA_TOKEN_URL"]}
    return bound | {
        "baseUrl": f"{base_url}/",
        "accessToken": "token",
        "secrets": {name: {"name": name, "valueString": value} for name, value in secrets.items()} | bound["secrets"],
    }


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """The value with one place replaced or removed."""
    value = copy.deepcopy(whole)
    here = value
    while isinstance(here, dict | list) and here:
        key: Any = (
            draw(st.sampled_from(sorted(here))) if isinstance(here, dict) else draw(st.integers(0, len(here) - 1))
        )
        if not isinstance(here[key], dict | list) or not here[key] or draw(st.integers(0, 3)) == 0:
            if draw(st.booleans()):
                here[key] = draw(odd_values)
            else:
                del here[key]
            return value
        here = here[key]
    return draw(odd_values)


def foreseen(result: Result, began: float, timeout: int) -> None:
    assert time.monotonic() - began < timeout
    assert result.error is None or result.error.code != "internal-error", result.log
    json.dumps(result.answer())


@examples
@given(st.data())
def test_no_input_is_unforeseen(partner: OddPartner, data: st.DataObject) -> None:
    """Whatever an event contains, the bot says what is wrong with it."""
    case = data.draw(st.sampled_from(cases()))
    handler = BOTS.named(case.stem)
    partner.answer = (404, b'{"resourceType":"OperationOutcome"}', "")
    sent = event(case, partner.base_url)
    given_input = data.draw(st.one_of(changed(sent["input"]), odd_hl7, odd_values))
    whole = data.draw(st.one_of(st.just(sent | {"input": given_input}), changed(sent | {"input": given_input})))
    began = time.monotonic()
    foreseen(invoke(handler, whole if isinstance(whole, dict) else sent, environ={}), began, handler.bot.timeout)


@examples
@given(st.data(), odd_answers, st.booleans())
def test_no_answer_of_a_partner_is_unforeseen(
    partner: OddPartner, data: st.DataObject, answer: tuple[int, bytes, str], gives_tokens: bool
) -> None:
    """An unreadable answer is the partner's failure: never ours, and never "no such practitioner"."""
    case = data.draw(st.sampled_from(cases()))
    handler = BOTS.named(case.stem)
    partner.answer, partner.gives_tokens = answer, gives_tokens
    began = time.monotonic()
    result = invoke(handler, event(case, partner.base_url), environ={})
    foreseen(result, began, handler.bot.timeout)


def _codes(answer: httpx.Response) -> list[str]:
    try:
        output = parameters.one(answer.json().get("returnValue") or {}, "outcome")
    except (ValueError, AttributeError):
        return []
    return outcomes.codes(output) if isinstance(output, dict) else []


@examples
@given(st.data())
def test_no_request_is_unforeseen(world: World, data: st.DataObject) -> None:
    """Whatever is sent to a route, its answer is a status below 500 without an internal error."""
    assert world.host is not None
    path = data.draw(
        st.sampled_from(["/bot-{id}", "/bot-x", "/bot-..", "/relay/sync-practitioner", "/federated/fhir/R4/Patient"])
    )
    case = data.draw(st.sampled_from(cases()))
    (bot,) = world.client().search("Bot", [("name", case.stem.replace("_", "-"))])
    sent = event(case, world.medplum.base_url) | {
        "bot": {"reference": f"Bot/{bot['id']}"},
        "accessToken": world.medplum.token_for(f"Bot/{bot['id']}"),
    }
    whole = json.dumps(data.draw(changed(sent))).encode(errors="surrogatepass")
    body = data.draw(st.one_of(st.just(whole), odd_bodies, st.binary(max_size=200)))
    headers = {"X-Bot-Signature": data.draw(st.sampled_from(["", "t=1", "t=1,n=nonce-0001,v1=" + "0" * 64]))}
    method = data.draw(st.sampled_from(["POST", "GET", "PUT"]))
    with loopback.client(base_url=world.host.base_url) as client:
        answer = client.request(method, path.format(id=bot["id"]), content=body, headers=headers, timeout=120)
    assert answer.status_code < 500, answer.text
    assert "internal-error" not in _codes(answer), answer.text


@pytest.mark.parametrize("page", ["/healthz", "/readyz", "/metrics"])
def test_pages_answer_every_request(world: World, page: str) -> None:
    """A query or a body changes nothing."""
    assert world.host is not None
    assert loopback.get(f"{world.host.base_url}{page}?x=%ff&y[]=", timeout=240).status_code == 200
