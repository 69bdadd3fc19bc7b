"""HTTP to partners: what is repeated, what is limited, and the result of each failure."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from pathlib import Path

import pytest
import requests
import responses

from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from bot_layer.http import deadline
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import LARGEST_ANSWER, Answer, Transport, require_safe_url
from tests.certificates import self_signed

URL = "https://partner.example/fhir/Patient/1"
AT_ONCE = RetryPolicy(retries=2, backoff=0.0, longest_wait=0.0)
PARTNER = Transport("Partner", AT_ONCE)


def get() -> Answer:
    return PARTNER.send("GET", URL, path="Patient/{id}")


@responses.activate
def test_a_whole_answer_is_returned_with_every_status() -> None:
    """Rules read refusals, so a 404 is an answer too."""
    responses.get(URL, json={"resourceType": "OperationOutcome", "issue": [{"code": "not-found"}]}, status=404)
    answer = get()
    assert (answer.ok, answer.status, answer.outcome()["resourceType"]) == (False, 404, "OperationOutcome")


@responses.activate
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_read_is_repeated_while_the_service_is_busy(status: int) -> None:
    """Two busy answers, then the third counts."""
    for _ in range(2):
        responses.get(URL, status=status)
    responses.get(URL, json={"ok": True})
    assert get().json() == {"ok": True}


@responses.activate
def test_a_read_is_given_up_after_its_repetitions() -> None:
    """The last busy answer is a TransientError that may be tried later."""
    responses.get(URL, status=503, headers={"Retry-After": "7"})
    answer = get()
    error = answer.error()
    assert isinstance(error, TransientError)
    assert (len(responses.calls), error.retry_after, error.maybe_done) == (3, 7.0, False)


@responses.activate
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_write_is_not_repeated_after_a_5xx(status: int) -> None:
    """It may have been done: the caller must look."""
    responses.post(URL, status=status)
    error = PARTNER.send("POST", URL, path="Patient", json_body={}).error()
    assert isinstance(error, TransientError)
    assert (len(responses.calls), error.maybe_done) == (1, True)


@responses.activate
def test_a_write_is_repeated_after_a_429() -> None:
    """A server answers 429 before it acts."""
    responses.post(URL, status=429, headers={"Retry-After": "3600"})
    responses.post(URL, status=201)
    assert PARTNER.send("POST", URL, path="Patient", json_body={}).status == 201


@responses.activate
def test_a_retry_after_never_waits_longer_than_allowed() -> None:
    """Some services ask for hours, some send the epoch: with longest_wait 0 this test would otherwise not end."""
    responses.get(URL, status=429, headers={"Retry-After": "1700000000"})
    responses.get(URL, json={})
    assert get().ok


@responses.activate
def test_a_lost_answer_to_a_write_may_have_been_done() -> None:
    """A connection that breaks is transient; after a write a person must check first."""
    responses.post(URL, body=requests.ConnectionError("reset"))
    with pytest.raises(TransientError) as caught:
        PARTNER.send("POST", URL, path="Patient", json_body={})
    assert caught.value.maybe_done


@responses.activate
def test_a_lost_answer_to_a_read_was_not_done() -> None:
    """Reading changes nothing."""
    responses.get(URL, body=requests.ReadTimeout("slow"))
    with pytest.raises(TransientError) as caught:
        get()
    assert not caught.value.maybe_done


@responses.activate
def test_a_redirect_is_not_followed() -> None:
    """A token goes to the host that it was issued for."""
    responses.get(URL, status=302, headers={"Location": "https://elsewhere.example/"})
    answer = PARTNER.send("GET", URL, path="Patient/{id}", headers={"Authorization": "Bearer t"})
    assert (answer.status, len(responses.calls)) == (302, 1)
    assert isinstance(answer.error(), PermanentError)


@pytest.mark.parametrize(("method", "maybe_done"), [("GET", False), ("POST", True), ("PUT", True)])
def test_a_page_after_a_write_leaves_open_whether_it_was_done(method: str, maybe_done: bool) -> None:
    """A gateway's page says nothing of what the service did behind it."""
    with pytest.raises(TransientError) as caught:
        Answer("Partner", method, "Thing", 200, {}, b"<html>").json()
    assert caught.value.maybe_done is maybe_done


@responses.activate
def test_html_does_not_pass_for_data() -> None:
    """A gateway's page is transient; an empty body is an empty object."""
    responses.get(URL, body="<html>", content_type="text/html")
    with pytest.raises(TransientError) as caught:
        get().json()
    assert caught.value.code == "unreadable-answer"
    responses.replace(responses.GET, URL, body=b" ")
    assert get().json() == {}
    responses.replace(responses.GET, URL, body=json.dumps([1]))
    assert get().outcome() == {}
    responses.replace(responses.GET, URL, body="<html>")
    assert get().outcome() == {}


@responses.activate
def test_an_answer_is_bounded() -> None:
    """A partner can't fill the memory."""
    responses.get(URL, body=b" " * (LARGEST_ANSWER + 1))
    with pytest.raises(PermanentError) as caught:
        get()
    assert caught.value.code == "answer-too-large"


@responses.activate
@pytest.mark.parametrize(("status", "code"), [(401, "login-refused"), (403, "rights-missing")])
def test_a_refused_login_is_for_the_operator(status: int, code: str) -> None:
    """401 and 403 are distinguished."""
    responses.get(URL, status=status)
    error = get().error()
    assert isinstance(error, AuthError)
    assert error.code == code


@responses.activate
def test_an_error_contains_only_codes_and_the_path_template() -> None:
    """Neither the id of the URL nor the service's words are in it."""
    responses.get(URL, status=422, json={"issue": [{"code": "business-rule", "diagnostics": "Jane Roe"}, "x"]})
    error = get().error()
    assert isinstance(error, PermanentError)
    assert error.issues == ("business-rule",)
    assert "Roe" not in str(error)
    assert "Patient/{id}" in str(error)


@pytest.mark.parametrize(
    "url", ["https://a.example/x", "http://localhost:1/x", "http://127.0.0.1/", "http://10.1.2.3/"]
)
def test_https_or_a_near_host(url: str) -> None:
    """Plain HTTP is for this machine and private networks."""
    require_safe_url(url, "Partner")


@pytest.mark.parametrize("url", ["http://a.example/", "ftp://a.example/", "https://", "http://8.8.8.8/", "a.example"])
def test_other_addresses_are_refused(url: str) -> None:
    """A token must not travel in the clear."""
    with pytest.raises(ConfigError):
        require_safe_url(url, "Partner")


def test_patience_is_a_setting() -> None:
    """The settings are numbers; a wrong one is named."""
    assert RetryPolicy.from_settings({}) == RetryPolicy()
    assert RetryPolicy.from_settings({"BOT_RETRIES": "0", "BOT_BACKOFF_SECONDS": "0.25"}).backoff == 0.25
    for wrong in ("many", ".", "-1", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(ConfigError, match="BOT_RETRIES"):
            RetryPolicy.from_settings({"BOT_RETRIES": wrong})


@responses.activate
@pytest.mark.parametrize("value", ["soon", "-5", "\N{SUPERSCRIPT TWO}", "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_an_absurd_retry_after_leaves_the_status_as_the_reason(value: str) -> None:
    """The error is that the service is busy, whatever its Retry-After says."""
    responses.get(URL, status=503, headers={"Retry-After": value})
    error = get().error()
    assert isinstance(error, TransientError)
    assert (error.status, error.retry_after, len(responses.calls)) == (503, None, 3)


class SilentServer:
    """Accepts connections and says nothing; counts them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/Patient/1?family=Roe&birthdate=1970-01-01"

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def test_a_deadline_ends_the_wait_for_a_silent_service() -> None:
    """The policy by itself would wait four times an hour."""
    silent = Transport("Partner", RetryPolicy(retries=3, backoff=0, read=3600))
    with SilentServer() as server, deadline.within(0.2), pytest.raises(TransientError) as caught:
        silent.send("POST", server.url, path="Patient/{id}", json_body={})
    assert (caught.value.code, caught.value.maybe_done) == ("service-unreachable", True)


def test_nothing_is_sent_after_the_deadline() -> None:
    """A request that was never sent cannot have been done."""
    with SilentServer() as server, deadline.within(0), pytest.raises(TransientError) as caught:
        PARTNER.send("POST", server.url, path="Patient", json_body={})
    assert not caught.value.maybe_done


def test_no_library_logs_a_search(caplog: pytest.LogCaptureFixture) -> None:
    """A search contains a name and a birth date; urllib3 logs the whole URL if a connection breaks."""
    caplog.set_level("DEBUG")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/Patient?family=Roe"
    with pytest.raises(TransientError):
        PARTNER.send("GET", url, path="Patient")
    assert "Roe" not in caplog.text


@responses.activate
def test_a_cookie_of_one_answer_is_not_sent_with_the_next() -> None:
    """Two logins share the connections; a cookie would mix them up."""
    responses.get(URL, headers={"Set-Cookie": "session=one"})
    get()
    get()
    assert "Cookie" not in responses.calls[1].request.headers


@pytest.mark.parametrize("value", ["t\N{LATIN SMALL LETTER E WITH ACUTE}", "t\r\nHost: b", "\ud800", "\N{EURO SIGN}"])
def test_a_value_that_no_header_can_carry_is_the_services_fault(value: str) -> None:
    """Tokens and versions come from answers."""
    with pytest.raises(TransientError) as caught:
        PARTNER.send("POST", URL, path="Patient", headers={"Authorization": value})
    assert (caught.value.code, caught.value.maybe_done) == ("unreadable-answer", False)


def test_a_write_is_not_repeated_where_tls_breaks_after_it_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request arrived and may have been carried out: the caller must look."""
    file = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    arrived: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with context.wrap_socket(connection, server_side=True) as secured:
                arrived.append(secured.recv(4096).partition(b" ")[0])
                with socket.socket(fileno=secured.detach()) as bare:
                    bare.sendall(b"this is no TLS at all")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(TransientError) as caught:
            PARTNER.send("POST", f"https://localhost:{listener.getsockname()[1]}/Patient", path="Patient", json_body={})
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=240)
    assert (arrived, caught.value.maybe_done) == ([b"POST"], True)
