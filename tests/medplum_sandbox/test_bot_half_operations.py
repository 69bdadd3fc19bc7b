"""Bots called by name and behind custom operations: what newer servers do, and what the recordings do not reach."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.hosts import EXTERNAL_FUNCTION
from medplum_sandbox.medplum.operations import IMPLEMENTATION
from tests import loopback
from tests.contract.bot_host import RecordingBotHost
from tests.medplum_sandbox.bots_at_work import FHIR, Scene, scene

ANN: Json = {"resourceType": "Practitioner", "name": [{"family": "Example", "given": ["Ann"]}]}
EMPTY: Json = {"resourceType": "Parameters", "parameter": []}
DONE: Json = {"resourceType": "Parameters", "parameter": [{"name": "ok", "valueBoolean": True}]}
WRONG: Json = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "invalid", "details": {"text": "no such practitioner"}}],
}


@pytest.fixture
def today() -> Iterator[Scene]:
    """A server as they are since 2026-02."""
    with scene() as running:
        yield running


@pytest.fixture
def strict() -> Iterator[Scene]:
    """A server as they are since 5.1.22."""
    with scene(honors_success=True) as running:
        yield running


def call(running: Scene, path: str, body: Json = EMPTY) -> tuple[int, Json]:
    """Status and body of a custom operation."""
    answer = running.http.post(f"/fhir/R4/{path}", json=body, headers={"Content-Type": FHIR})
    return answer.status_code, answer.json()


def test_an_instance_level_call_passes_the_resource(today: Scene) -> None:
    """Since 2026-02 the bot gets what the path names instead of the body."""
    bot = today.bot()
    today.operation(bot)
    ann = today.create(ANN)
    today.answers(DONE)
    assert call(today, f"Practitioner/{ann['id']}/$sync", DONE) == (200, DONE)
    assert today.events()[0]["input"] == ann


def test_an_instance_level_call_of_nobody_is_not_found(today: Scene) -> None:
    """The resource is read, so that the id is checked; the bot isn't called."""
    today.operation(today.bot())
    assert call(today, "Practitioner/00000000-0000-4000-8000-000000000000/$sync")[0] == 404
    assert today.events() == []


def test_a_type_level_call_passes_the_body(today: Scene) -> None:
    """And so does an instance-level one of a definition with ``instance: false``."""
    today.operation(today.bot(), instance=False)
    ann = today.create(ANN)
    for path in ("Practitioner/$sync", f"Practitioner/{ann['id']}/$sync"):
        today.answers(DONE)
        assert call(today, path) == (200, DONE)
        assert today.events()[0]["input"] == EMPTY


def test_a_system_level_call_reaches_the_bot(today: Scene) -> None:
    """Since 5.0.13; the recorded version takes the name for a resource type."""
    today.operation(today.bot(), system=True)
    today.answers(DONE)
    assert call(today, "$sync") == (200, DONE)


def test_a_function_that_crashes_is_a_500_behind_an_operation_too(today: Scene) -> None:
    """A vmcontext handler without its semicolon."""
    bot = today.bot(runtimeVersion="vmcontext")
    code = "exports.handler = async function () { return 1; }"
    today.http.post(f"/fhir/R4/Bot/{bot['id']}/$deploy", json={"code": code}).raise_for_status()
    today.operation(bot)
    assert call(today, "Practitioner/$sync") == (500, {"msg": "Internal Server Error"})
    assert today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).status_code == 500


def test_success_false_reaches_the_caller_as_400(strict: Scene) -> None:
    """Of ``$execute`` and of an operation, with the outcome that the bot returned."""
    bot = strict.bot()
    strict.operation(bot)
    strict.answers(WRONG, success=False)
    assert call(strict, "Practitioner/$sync") == (400, WRONG)
    strict.answers(WRONG, success=False)
    answer = strict.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={})
    assert answer.status_code == 400
    assert answer.json()["issue"] == WRONG["issue"]


def test_a_bot_runs_as_the_user_where_it_says_so(today: Scene) -> None:
    """``runAsUser``: the token of the event is the caller's, not the bot's."""
    for run_as_user, expected in ((True, "ClientApplication"), (False, "Bot")):
        bot = today.bot(runAsUser=run_as_user)
        today.answers(None)
        today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).raise_for_status()
        token = today.events()[0]["accessToken"]
        me = today.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).raise_for_status().json()
        assert me["profile"]["resourceType"] == expected


def test_a_run_without_a_host_says_what_to_set() -> None:
    """As does one whose host is not there."""
    with scene() as running:
        bot = running.bot()
        for address, text in ((None, "set bot_host"), ("127.0.0.1:1", "connect ECONNREFUSED 127.0.0.1:1")):
            running.sandbox.bot_host = address
            answer = running.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={})
            assert answer.status_code == 400
            assert text in answer.json()["issue"][0]["details"]["text"]


def test_a_failed_run_is_an_audit_event_of_outcome_4(today: Scene) -> None:
    """Its description is the log, or the reason."""
    bot = today.bot()
    today.fails(500)
    today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={})
    found = today.http.get(f"/fhir/R4/AuditEvent?entity=Bot/{bot['id']}").json()["entry"][0]["resource"]
    assert (found["outcome"], found["outcomeDesc"]) == ("4", "HTTP error! Status: 500, Message: broken")


def test_deploying_a_fission_bot_fails_after_the_fact(today: Scene) -> None:
    """The code is stored, but the call fails, and the bot still runs."""
    bot = today.bot()
    answer = today.http.post(f"/fhir/R4/Bot/{bot['id']}/$deploy", json={"code": "x", "filename": "a.js"})
    assert answer.status_code == 400
    assert "skipTLSVerify" in answer.json()["issue"][0]["details"]["text"]
    assert today.http.get(f"/fhir/R4/Bot/{bot['id']}").json()["executableCode"]["title"] == "a.js"
    today.answers({"ok": True})
    assert today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).json() == {"ok": True}


def test_a_bot_without_a_name_is_shown_by_its_reference(today: Scene) -> None:
    """A name is not required by FHIR."""
    bot = today.create({"resourceType": "Bot", "runtimeVersion": "fission"})
    today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).raise_for_status()
    assert today.events()[0]["bot"] == {"reference": f"Bot/{bot['id']}", "display": f"Bot/{bot['id']}"}


def test_a_lambda_function_is_named_by_the_bots_identifier() -> None:
    """It gets the same envelope, at the path of the emulator."""
    with RecordingBotHost() as functions, scene(lambda_endpoint=f"http://{functions.address}") as running:
        bot = running.bot(
            runtimeVersion="awslambda", identifier=[{"system": EXTERNAL_FUNCTION, "value": "medplum-sync"}]
        )
        functions.plan({"status": 200, "headers": {}, "body": {"ok": True}})
        assert running.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={"a": 1}).json() == {"ok": True}
        came = functions.next_call()
        assert came is not None
        assert came.path == "/2015-03-31/functions/medplum-sync/invocations"
        assert (came.body["input"], came.body["bot"]["reference"]) == ({"a": 1}, f"Bot/{bot['id']}")


@pytest.mark.parametrize(
    ("identifier", "text"),
    [([], EXTERNAL_FUNCTION), ([{"system": EXTERNAL_FUNCTION, "value": "f"}], "lambda_endpoint")],
)
def test_a_lambda_bot_that_cannot_run_says_why(today: Scene, identifier: list[Json], text: str) -> None:
    """There is no Lambda in a sandbox: only functions of the user's own, by their address."""
    bot = today.bot(runtimeVersion="awslambda", identifier=identifier)
    answer = today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={})
    assert text in answer.json()["issue"][0]["details"]["text"]


def test_a_missing_lambda_function_is_a_failed_run() -> None:
    """With the reason of the connection."""
    with scene(lambda_endpoint="http://127.0.0.1:1") as running:
        bot = running.bot(runtimeVersion="awslambda", identifier=[{"system": EXTERNAL_FUNCTION, "value": "f"}])
        answer = running.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={})
        assert "ECONNREFUSED" in answer.json()["issue"][0]["details"]["text"]


def test_a_client_becomes_an_admin_by_its_membership(today: Scene) -> None:
    """New clients have no admin right; the project's admin can give it."""
    made = today.admin("client", {"name": "other"}).json()
    memberships = today.http.get(f"/fhir/R4/ProjectMembership?profile=ClientApplication/{made['id']}").json()["entry"]
    membership = memberships[0]["resource"]
    path = f"/admin/projects/{today.sandbox.project_id}/members/{membership['id']}"
    assert "admin" not in today.http.get(path).json()
    assert today.http.post(path, json={**membership, "admin": True}).json()["admin"] is True
    basic = (made["id"], made["secret"])
    answer = today.http.get(f"/admin/projects/{today.sandbox.project_id}", auth=basic)
    assert answer.status_code == 200


def test_a_client_needs_a_name(today: Scene) -> None:
    """As a bot does."""
    assert today.admin("client", {}).status_code == 400


def test_waiting_callers_leave_room_for_what_their_bots_ask(today: Scene) -> None:
    """Fifty callers wait for a bot; the sandbox still answers, so that the bots can read and write."""
    bot = today.bot()
    for _ in range(50):
        plain = {"status": 200, "headers": {"Content-Type": "application/json"}, "body": {"returnValue": 1}}
        today.host.plan(plain, held_until_step=0)
    token = today.http.headers["Authorization"]

    def wait(_: int) -> int:
        url = f"{today.sandbox.base_url}/fhir/R4/Bot/{bot['id']}/$execute"
        return loopback.post(url, json={}, headers={"Authorization": token}, timeout=240).status_code

    with ThreadPoolExecutor(max_workers=50) as callers:
        statuses = callers.map(wait, range(50))
        try:
            assert all(today.host.next_call() for _ in range(50))
            assert today.http.get(f"/fhir/R4/Bot/{bot['id']}").status_code == 200
        finally:
            today.host.release(0)
        assert set(statuses) == {200}


def test_an_access_policy_of_a_bot_is_kept_in_its_membership(today: Scene) -> None:
    """Set when the bot is created; the bot's token allows only what the policy allows."""
    policy = today.create({"resourceType": "AccessPolicy", "name": "p", "resource": [{"resourceType": "Patient"}]})
    bot = today.bot(accessPolicy={"reference": f"AccessPolicy/{policy['id']}"})
    today.answers(None)
    today.http.post(f"/fhir/R4/Bot/{bot['id']}/$execute", json={}).raise_for_status()
    headers = {"Authorization": f"Bearer {today.events()[0]['accessToken']}"}
    assert today.http.get("/fhir/R4/Patient", headers=headers).status_code == 200
    assert today.http.get("/fhir/R4/Practitioner", headers=headers).status_code == 403


def test_an_operation_whose_definition_names_something_else_is_not_found(today: Scene) -> None:
    """Only a reference to a Bot carries an operation out."""
    wrong = [
        {"url": "https://example.org/other", "valueReference": {"reference": f"Bot/{today.bot()['id']}"}},
        {"url": IMPLEMENTATION, "valueReference": {"reference": "Practitioner/1"}},
    ]
    today.operation(today.bot(), extension=wrong)
    assert call(today, "Practitioner/$sync")[0] == 404


def test_the_health_check_shows_the_version() -> None:
    """Bots probe it to know how the server behaves."""
    with scene(version="5.1.37") as running:
        assert running.http.get("/healthcheck").json()["version"] == "5.1.37"
