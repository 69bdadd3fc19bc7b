"""Injected faults, as a client of the Medplum look-alike sees them."""

from __future__ import annotations

import json

import httpx
import pytest

from medplum_sandbox.faults import Faults
from tests import loopback
from tests.medplum_sandbox.medplum_caller import SYSTEM, entry, medplum, patient, text_of

CONDITION = f"Patient?identifier={SYSTEM}%7Ca"


def test_a_conflict_strikes_conditional_writes_and_nothing_else() -> None:
    """A plain POST never gets one; a conditional PUT does, writes nothing, and succeeds when repeated."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("conflict", times=1)
        assert caller.post("Patient", json=patient("plain")).status_code == 201
        answer = caller.put(CONDITION, json=patient("a"))
        assert (answer.status_code, answer.json()["issue"][0]["details"]["coding"]) == (409, [{"code": "40001"}])
        assert caller.found(CONDITION) == []
        assert caller.put(CONDITION, json=patient("a")).status_code == 201


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_conditional_patches_and_deletes_meet_conflicts_too(method: str) -> None:
    """Nothing is changed by the one that failed."""
    with medplum() as (sandbox, caller):
        made = caller.created(patient("a"))
        sandbox.faults.add("conflict", method=method)
        body = [{"op": "add", "path": "/active", "value": True}] if method == "PATCH" else None
        assert caller.request(method, CONDITION, json=body).status_code == 409
        assert caller.get(f"Patient/{made['id']}").json() == made


def test_a_conflict_in_a_batch_fails_its_entry_alone() -> None:
    """The other entries are carried out, also those whose condition found something."""
    with medplum() as (sandbox, caller):
        caller.created(patient("a"))
        sandbox.faults.add("conflict", times=2)
        conditional = [entry("PUT", f"Patient?identifier={SYSTEM}|{v}", patient(v)) for v in ("a", "b", "c")]
        answered = caller.batch(*conditional, entry("POST", "Patient", patient("d")))
        assert [one["response"]["status"] for one in answered] == ["409", "409", "201", "201"]


def test_a_reset_after_the_write_leaves_the_write_done() -> None:
    """The client sees a closed connection; the resource is there."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("reset_after_write", times=1)
        with pytest.raises(httpx.RemoteProtocolError):
            caller.post("Patient", json=patient("a"))
        assert len(caller.found(CONDITION)) == 1
        first = sandbox.requests[0]
        assert (first.method, first.path, first.status) == ("POST", "/fhir/R4/Patient", 0)


def test_a_reset_before_the_write_leaves_nothing() -> None:
    """The same to the client, and nothing was stored."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("reset_before_write", times=1)
        with pytest.raises(httpx.RemoteProtocolError):
            caller.post("Patient", json=patient("a"))
        assert caller.found(CONDITION) == []


def test_too_many_requests_say_when_to_retry() -> None:
    """As recorded: a 429 whose diagnostics and RateLimit header carry the time, and no Retry-After."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("too_many", seconds=2)
        answer = caller.get("Patient")
        diagnostics = json.loads(answer.json()["issue"][0]["diagnostics"])
        assert (answer.status_code, answer.json()["id"]) == (429, "too-many-requests")
        assert (diagnostics["_remainingPoints"], diagnostics["_msBeforeNext"]) == (0, 2000)
        assert answer.headers.get_list("RateLimit")[1] == '"fhirInteractions";r=0;t=2'
        assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_has_the_status_that_was_asked_for(status: int) -> None:
    """Nothing is done."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("server_error", status=status, times=1)
        answer = caller.post("Patient", json=patient("a"))
        assert (answer.status_code, answer.json()) == (status, {"msg": "Internal Server Error"})
        assert caller.found("Patient") == []


def test_a_slow_answer_outlasts_an_impatient_client() -> None:
    """The client gives up; a client that waits gets the answer."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("slow", seconds=0.2, times=2)
        with pytest.raises(httpx.ReadTimeout):
            caller.get("Patient", timeout=0.05)
        assert caller.get("Patient").status_code == 200


def test_a_proxy_answers_html_and_an_empty_body() -> None:
    """Both in place of FHIR; behind the empty one the write is done."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("html", status=502, times=1)
        answer = caller.get("Patient")
        assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
        sandbox.faults.add("empty_body", times=1)
        assert caller.post("Patient", json=patient("a")).content == b""
        assert len(caller.found(CONDITION)) == 1


def test_a_token_can_end_early() -> None:
    """The same 401 as without a token."""
    with medplum() as (sandbox, caller):
        sandbox.faults.add("expired_token", times=1)
        answer = caller.get("Patient")
        assert (answer.status_code, text_of(answer)) == (401, "Unauthorized")


def test_the_switchboard_can_be_handed_in() -> None:
    """As the command line does."""
    with medplum(faults=Faults.parse(["too_many"])) as (_, caller):
        assert caller.get("Patient").status_code == 429


def test_an_address_gets_no_more_tokens_than_the_limit() -> None:
    """The calls of /oauth2 are counted by address; the FHIR API stays open."""
    with medplum(auth_rate_limit=2) as (sandbox, caller):
        form = {"grant_type": "client_credentials"}
        login = (sandbox.client_id, sandbox.client_secret)
        answers = [loopback.post(f"{sandbox.base_url}/oauth2/token", data=form, auth=login) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert caller.get("Patient").status_code == 200
