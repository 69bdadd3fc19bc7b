"""Generated requests to the routes with their own login: relays, federated queries, the status page, Lambda.

Each has a valid signature, token or session, so that its content is really read.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot_layer.demo.world import World
from bot_layer.host.aws_lambda import entry
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.invoke import invoke
from bot_layer.host.rules.relay_signature import sign
from tests import loopback
from tests.cases import cases
from tests.host.pages.site import Site, site
from tests.host.test_generated import BOTS, HL7, changed, event, foreseen, odd_bodies, odd_values

KEY: Final = "k" * 32
_nonces = itertools.count()
examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
odd_texts = st.sampled_from(
    (
        *("", " ", "*", "x", "é", "%", "%ff", "\0", "..", "../x", "a|b", "|", "||", "a\\,b", ",", ";", "'", '"', "<b>"),
        *("Patient/.", "Patient/../x", "http://evil.example/Patient/1", "9" * 400, "-1", "1e9", "true", "null", "[]"),
        *("ge2026", "ge2026-13-45", "eq", "lt0000", "2026-02-30T25:61:61Z", "http://loinc.org|34133-9", "\ud800"),
    )
)
odd_names = st.sampled_from(
    (
        *("patient", "patient.identifier", "subject", "identifier", "type", "category", "date", "period", "status"),
        *("_id", "_count", "_sort", "_include", "_summary", "_format", "_lastUpdated", "page", "document", "content"),
        *("patient:Patient", "type:not", "date:missing", "", "x", "_offset", "security-label"),
    )
)
queries = st.lists(st.tuples(odd_names, odd_texts), max_size=5)
odd_headers = st.dictionaries(
    st.sampled_from(["Range", "If-Range", "Prefer", "Accept", "Content-Type", "X-Forwarded-For", "If-None-Match"]),
    st.sampled_from(["", "bytes=0-", "bytes=9-1,x", "bytes=-0", "handling=strict", "*/*", "a/b;q=x", '"', "1, 2, ::"]),
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as running:
        yield running


@pytest.fixture(scope="module")
def relay_host(world: World) -> Iterator[HostServer]:
    with HostServer(HostSettings((world.medplum.base_url,), BOTS, environ={}, relay_key=KEY)) as server:
        yield server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("page")) as made:
        made.sign_in()
        yield made


def _encoded(pairs: list[tuple[str, str]]) -> str:
    encode = [(name.encode(errors="replace"), value.encode(errors="replace")) for name, value in pairs]
    return str(httpx.QueryParams([(name.decode(), value.decode()) for name, value in encode]))


@examples
@given(st.data())
def test_no_signed_call_is_unforeseen(world: World, relay_host: HostServer, data: st.DataObject) -> None:
    """A valid signature of a relay does not make the content trustworthy."""
    case = data.draw(st.sampled_from(cases()))
    name = data.draw(st.sampled_from([case.stem.replace("_", "-"), "unknown", "x", "é"]))
    sent = data.draw(changed(event(case, world.medplum.base_url)))
    body = data.draw(st.one_of(st.just(json.dumps(sent).encode(errors="surrogatepass")), odd_bodies))
    signature = sign(KEY, name, body, at=int(time.time()), nonce=f"nonce-{next(_nonces):08d}")
    with loopback.client(base_url=relay_host.base_url) as client:
        answer = client.post(f"/relay/{name}", content=body, headers={"X-Bot-Signature": signature}, timeout=120)
    assert answer.status_code in {200, 400, 413}, answer.text
    assert "internal-error" not in answer.text


@examples
@given(st.data())
def test_no_federated_request_is_unforeseen(world: World, data: st.DataObject) -> None:
    """Searches, documents and token requests of a client that may ask, and of one that has no token."""
    assert world.host is not None
    login = {
        "grant_type": "client_credentials",
        "client_id": world.federated_client,
        "client_secret": world.federated_secret,
    }
    with loopback.client(base_url=f"{world.host.base_url}/federated", timeout=120) as client:
        token = client.post("/oauth2/token", data=login).json()["access_token"]
        query = _encoded(data.draw(queries))
        headers = data.draw(odd_headers)
        if data.draw(st.integers(0, 5)):
            headers["Authorization"] = f"Bearer {token}"
        kind = data.draw(st.sampled_from(["search", "form", "document", "token", "metadata"]))
        match kind:
            case "search":
                answer = client.get(f"/fhir/R4/DocumentReference?{query}", headers=headers)
            case "form":
                answer = client.post("/fhir/R4/DocumentReference/_search", content=query, headers=headers)
            case "document":
                document = data.draw(st.sampled_from(["x", "..", ".", "%00", "é", "a" * 200]))
                answer = client.get(f"/documents/{document}?{query}", headers=headers)
            case "token":
                odd = login | data.draw(st.dictionaries(st.sampled_from([*login, "scope", "aud"]), odd_texts))
                content = data.draw(st.one_of(st.just(_encoded(list(odd.items())).encode()), odd_bodies))
                answer = client.post("/oauth2/token", content=content, headers=headers)
            case _:
                answer = client.get(f"/fhir/R4/metadata?{query}", headers=headers)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text


@examples
@given(st.data())
def test_no_request_to_the_status_page_is_unforeseen(page: Site, data: st.DataObject) -> None:
    """Looked at with a session: whatever a link or a filter says."""
    run = page.runs.listed(limit=1)[0].id
    path = data.draw(st.sampled_from(["", "/runs", "/sync", "/setup", f"/runs/{run}", "/runs/x", "/runs/%00", "/x"]))
    names = st.sampled_from(["bot", "state", "code", "since", "page", "id", "", "x"])
    query = _encoded(data.draw(st.lists(st.tuples(names, odd_texts), max_size=4)))
    answer = page.client.get(f"/status{path}?{query}", timeout=120)
    assert answer.status_code < 500, answer.text
    assert "<b>" not in answer.text, "what a link says is not the page's own markup"


@examples
@given(st.data())
def test_no_event_makes_a_function_raise(data: st.DataObject) -> None:
    """Lambda would send a stack trace to the caller."""
    case = data.draw(st.sampled_from(cases()))
    sent = data.draw(st.one_of(changed(event(case, "http://127.0.0.1:9")), odd_values))  # nothing listens there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOT_BACKOFF_SECONDS", "0")
        answer = entry(case.stem)(sent, None)
    assert "internal-error" not in json.dumps(answer)


odd_charsets = st.sampled_from(["", "8859/1", "UNICODE UTF-8", "UNICODE UTF-16", "ISO IR87", "GB 18030-2000", "x", "~"])
odd_escapes = st.sampled_from(
    ["\\X41\\", "\\XZZ\\", "\\X4\\", "\\C2842\\", "\\M2442\\", "\\", "\\F", "\\.br\\", "é", "\x00"]
)


@examples
@given(st.data())
def test_no_message_is_unforeseen(data: st.DataObject) -> None:
    """Character sets that a message names and does not use, escapes that say nothing, segments without an end."""
    header, rest = HL7.split("\r", 1)
    message = f"{header}||||||{data.draw(odd_charsets)}\r{rest}".replace("Example", data.draw(odd_escapes))
    message = message.replace("\r", data.draw(st.sampled_from(["\r", "\n", "\r\n", "\x1c", ""])))
    wrapped: Any = data.draw(st.sampled_from([message, f"\x0b{message}\x1c\r", message.encode().decode("latin-1")]))
    case = next(each for each in cases("register_patient") if each.folder.name == "adt-new")
    began = time.monotonic()
    sent = event(case, "http://127.0.0.1:9") | {"input": wrapped, "contentType": "x-application/hl7-v2+er7"}
    result = invoke(BOTS.named("register-patient"), sent, environ={"BOT_BACKOFF_SECONDS": "0"})
    foreseen(result, began, 60)
    assert result.answer()["returnValue"], "the sender gets an acknowledgement"
